"""The figures of a run: losses as means, norms, counts of subwords, epochs."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from pipelines import examples, initialized, module_of, without_dropout
from spacy.training.loop import train_while_improving
from thinc.api import Optimizer

from spacy_bertft.components.progress.figures import RunMeter
from spacy_bertft.learning.shim import shim_of
from spacy_bertft.learning.tally import Tally

pytestmark = pytest.mark.touches_transformers


def run(nlp, *, parts=1, steps=5, every=2, rate=1e-3, exclude=(), before=lambda: None):
    """Train as `spacy train` does; the figures of each step."""
    egs = examples(nlp)
    batches = ((step // 2, egs[:4] if step % 2 == 0 else egs[4:]) for step in range(steps))
    with nlp.select_pipes(disable=list(exclude)):
        meter = RunMeter(nlp)
    loop = train_while_improving(
        nlp,
        Optimizer(rate, L2=0.0, grad_clip=1e-3, use_averages=False, L2_is_weight_decay=True),
        batches,
        lambda: (0.5, {"ents_f": 0.5, "speed": 9.0, "ents_per_type": {"PERSON": {"f": 0.1}}}),
        dropout=0.0,
        eval_frequency=every,
        accumulate_gradient=parts,
        patience=0,
        max_steps=0,
        exclude=list(exclude),
        annotating_components=[],
        before_update=None,
    )
    return [meter(info if best is not None else None) for _, info, best in loop]


def test_losses_are_means_that_do_not_grow_with_accumulated_parts(tiny_bert):
    whole = run(without_dropout(initialized(tiny_bert)))
    parts = run(without_dropout(initialized(tiny_bert)), parts=3)
    for one, other in zip(whole, parts, strict=True):
        assert one.stretch.losses.keys() == {"ner", "textcat"}
        assert one.stretch.losses == pytest.approx(other.stretch.losses, rel=1e-4)
        assert one.stretch.norm == pytest.approx(other.stretch.norm, rel=1e-3)
    # Of two categories, an untrained head's loss is about log 2.
    assert whole[0].stretch.losses["textcat"] == pytest.approx(math.log(2), rel=0.1)


def test_an_evaluation_has_the_means_since_the_last_one(tiny_bert):
    found = run(without_dropout(initialized(tiny_bert)), rate=0.0)
    assert [one.evaluation is not None for one in found] == [True, False, True, False, True]
    four, two = (found[step].stretch.losses["textcat"] for step in (0, 1))
    assert found[0].evaluation.stretch.losses["textcat"] == pytest.approx(four)
    assert found[2].evaluation.stretch.losses["textcat"] == pytest.approx((4 * four + 2 * two) / 6)
    norms = [one.stretch.norm for one in found[1:3]]
    assert found[2].evaluation.stretch.norm == pytest.approx(sum(norms) / 2)
    assert found[2].evaluation.scores == {"ents_f": 0.5}


def test_the_norm_is_of_all_gradients_before_clipping(tiny_bert):
    nlp = without_dropout(initialized(tiny_bert))
    (found,) = run(nlp, steps=1, rate=0.0)
    egs = examples(nlp)[:4]
    nlp.update(egs, sgd=False)
    nlp.get_pipe("encoder").settle()
    gradients = [p.grad / 4 for name in nlp.pipe_names for p in module_of(nlp, name).parameters() if p.grad is not None]
    expected = torch.linalg.vector_norm(torch.stack([gradient.norm() for gradient in gradients]))
    assert found.stretch.norm == pytest.approx(float(expected), rel=1e-4)
    assert found.stretch.norm > 1e-3  # where they are clipped


def test_subwords_are_counted_once_whoever_counts_them(tiny_bert):
    nlp = initialized(tiny_bert)
    expected = int(nlp.get_pipe("encoder").predict([eg.predicted for eg in examples(nlp)[:4]]).subword_counts.sum())
    found = run(nlp, steps=1)[0]
    frozen = run(initialized(tiny_bert), steps=1, exclude=["encoder"])[0]
    assert found.stretch.subwords == frozen.stretch.subwords == expected
    assert found.stretch.subwords_per_second > 0
    assert found.learn_rate == frozen.learn_rate == pytest.approx(1e-3)


def test_epochs_are_known_between_evaluations(tiny_bert):
    found = run(initialized(tiny_bert), steps=6, every=100)
    assert [(one.step, one.epoch) for one in found] == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]
    assert all(one.seconds <= other.seconds for one, other in itertools.pairwise(found))
    assert found[0].memory > 10
    assert found[0].gpu_memory is None or torch.cuda.is_available()


def test_where_the_number_of_texts_is_not_known_the_epoch_is_that_of_the_last_evaluation(tiny_bert):
    nlp = initialized(tiny_bert)
    nlp.config["training"]["max_epochs"] = -1  # a stream
    assert [one.epoch for one in run(nlp, steps=6, every=4)] == [0, 0, 0, 0, 2, 2]


def test_the_best_evaluation_is_told(tiny_bert):
    found = run(initialized(tiny_bert), steps=5)
    assert [one.evaluation.best for one in found if one.evaluation] == [True, True, True]  # ties, as spaCy counts them


def test_components_of_spacy_have_losses_per_step(tiny_bert):
    nlp = initialized(tiny_bert, {"ner": "bertft_ner"})
    tagger = nlp.add_pipe("tagger", config={"model": {"tok2vec": {"@architectures": "spacy-bertft.Listener.v1"}}})
    egs = examples(nlp)
    for eg in egs:
        for token in eg.reference:
            token.tag_ = "A" if token.is_title else "B"
    tagger.initialize(lambda: egs, nlp=nlp)
    meter = RunMeter(nlp)
    assert (meter.heads, meter.others) == (("ner",), ("tagger",))
    losses = {}
    for _ in range(2):
        nlp.update(egs, losses=losses, sgd=Optimizer(1e-4, L2_is_weight_decay=True, use_averages=False))
        info = {"step": 1, "epoch": 0, "losses": losses, "score": 0.0, "other_scores": {}, "checkpoints": [(0.0, 1)]}
        found = meter(None if _ == 0 else info)
    assert found.stretch.losses.keys() == {"ner"}
    assert found.evaluation.stretch.losses["tagger"] == pytest.approx(losses["tagger"] / 2)


def test_a_tally_counts_what_other_processes_have_counted():
    one, two = Tally(), Tally()
    for texts, subwords, loss in ((2, 10, 1.5), (1, 4, 0.25)):
        for tally in (one, two):  # the same counts in both
            tally.texts, tally.subwords, tally.loss = tally.texts + texts, tally.subwords + subwords, tally.loss + loss
        for tally in (one, two):
            tally.share(lambda new: [2 * value for value in new])
    assert (one.texts, one.subwords, one.loss) == (two.texts, two.subwords, two.loss) == (6, 28, 3.5)


def test_a_tally_only_grows_while_other_weights_come_and_go(tiny_bert):
    nlp = initialized(tiny_bert)
    run(nlp, steps=2)
    shim = shim_of(nlp.get_pipe("ner").model)
    assert (shim.tally.steps, shim.tally.texts) == (2, 6)
    shim.module = shim.module  # a new optimizer, as on another device
    assert (shim.tally.steps, shim.tally.texts, shim.n_steps) == (2, 6, 0)
    assert [one.step for one in run(nlp, steps=2)] == [0, 1]
