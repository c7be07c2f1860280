"""What initialisation does to the config of a run."""

from __future__ import annotations

import pytest
import spacy
from pipelines import ANNOTATED, blank, examples
from spacy.cli.train import train
from spacy.tokens import DocBin
from spacy.util import load_config

from spacy_bertft.components.run import plan_run

pytestmark = pytest.mark.touches_transformers
BLOCK = {"@schedules": "spacy-bertft.warmup_decay.v1", "initial_rate": 1e-3}


def planned(nlp, *, batch=2, max_steps=0, max_epochs=0, **rate):
    nlp.config["training"].update(
        {
            "max_steps": max_steps,
            "max_epochs": max_epochs,
            "optimizer": {"@optimizers": "Adam.v1", "learn_rate": rate},
            "batcher": {"@batchers": "spacy.batch_by_sequence.v1", "size": batch},
        }
    )
    nlp.initialize(lambda: examples(nlp))
    return nlp.config["training"]["optimizer"]["learn_rate"]


@pytest.mark.parametrize(("batch", "steps"), [(2, 3), (4, 2), (100, 1)])
def test_steps_of_an_epoch_are_counted_by_the_batcher(tiny_bert, batch, steps):
    assert planned(blank(tiny_bert), batch=batch, **BLOCK, max_epochs=2)["steps_per_epoch"] == steps


def test_a_run_in_steps_needs_no_count(tiny_bert):
    found = planned(blank(tiny_bert), **BLOCK, max_steps=20, steps_per_epoch=7)
    assert (found["max_steps"], found["max_epochs"], found["steps_per_epoch"]) == (20, 0, None)
    assert "steps_per_epoch" not in planned(blank(tiny_bert), **{"@schedules": "constant.v1", "rate": 1e-3})


def test_one_component_counts_for_all(tiny_bert):
    nlp = blank(tiny_bert)
    calls = []

    def count():
        calls.append(1)
        return examples(nlp)

    nlp.config["training"].update(
        {
            "optimizer": {"@optimizers": "Adam.v1", "learn_rate": {**BLOCK}},
            "batcher": {"@batchers": "spacy.batch_by_sequence.v1", "size": 2},
            "max_epochs": 2,
        }
    )
    for name in ("textcat", "ner"):
        plan_run(nlp, nlp.get_pipe(name), count)
    assert not calls
    plan_run(nlp, nlp.get_pipe("encoder"), count)
    assert len(calls) == 1
    plan_run(None, nlp.get_pipe("encoder"), count)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("max_steps", "max_epochs", "warns"), [(30, 0, True), (20, 0, False), (0, 0, True), (0, 3, False)]
)
def test_a_rate_that_ends_before_the_run_is_warned_of(tiny_bert, max_steps, max_epochs, warns, recwarn):
    nlp = blank(tiny_bert)
    rate = {
        "max_steps": max_steps,
        "max_epochs": max_epochs,
        "@schedules": "warmup_linear.v1",
        "initial_rate": 1e-3,
        "warmup_steps": 2,
        "total_steps": 20,
    }
    if not warns:
        planned(nlp, **rate)
        return
    with pytest.warns(UserWarning, match=r"learning rate is 0 from step 20 on .* Expected both to be the same"):
        planned(nlp, **rate)


@pytest.mark.slow
def test_spacy_train_by_epochs_warms_up_and_ends_at_zero(tiny_bert, tmp_path):
    nlp = blank(tiny_bert)
    DocBin(docs=[eg.reference for eg in examples(nlp, ANNOTATED * 4)]).to_disk(tmp_path / "train.spacy")
    config = nlp.config.copy()
    config["paths"] = {
        "train": str(tmp_path / "train.spacy"),
        "dev": str(tmp_path / "train.spacy"),
        "vectors": None,
        "init_tok2vec": None,
    }
    config["training"]["optimizer"] = {
        "@optimizers": "Adam.v1",
        "learn_rate": {
            **BLOCK,
        },
        "L2_is_weight_decay": True,
        "use_averages": False,
    }
    config["training"]["batcher"] = {"@batchers": "spacy.batch_by_sequence.v1", "size": 4}
    config["training"].update({"max_epochs": 3, "max_steps": 0, "eval_frequency": 100})
    config.to_disk(tmp_path / "config.cfg")
    train(tmp_path / "config.cfg", tmp_path / "out")
    saved = load_config(tmp_path / "out/model-last/config.cfg")
    assert saved["training"]["optimizer"]["learn_rate"]["steps_per_epoch"] == 6
    optimizer = spacy.load(tmp_path / "out/model-last").resume_training()  # with the schedule of the config
    rates = []
    for _ in range(19):
        rates.append(optimizer.learn_rate)
        optimizer.step_schedules()
    assert rates[0] == rates[18] == 0
    assert max(rates) == 1e-3


def test_batches_that_grow_are_counted_epoch_by_epoch(tiny_bert):
    nlp = blank(tiny_bert)
    size = {"@schedules": "compounding.v1", "start": 1, "stop": 6, "compound": 1.5}
    nlp.config["training"].update(
        {
            "optimizer": {"@optimizers": "Adam.v1", "learn_rate": {**BLOCK}},
            "batcher": {"@batchers": "spacy.batch_by_sequence.v1", "size": size},
            "max_epochs": 10,
            "max_steps": 0,
        }
    )
    nlp.initialize(lambda: examples(nlp))
    assert nlp.config["training"]["optimizer"]["learn_rate"]["steps_per_epoch"] == 2  # 4 in the first, then 1
