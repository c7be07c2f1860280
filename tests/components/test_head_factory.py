"""The factory of a head, by a made-up one: it learns how long a text is."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Literal

import pytest
import spacy
import torch
from confection import ConfigValidationError
from pipelines import ANNOTATED, TEXTS, blank, examples
from spacy.language import Language
from spacy.util import load_config, registry

from spacy_bertft.components.head_factory import head_factory
from spacy_bertft.components.head_modules import Head, new_linear
from spacy_bertft.components.head_pipe import HeadPipe
from spacy_bertft.components.metric_kinds import ERROR, POINTS, kind_of
from spacy_bertft.encoder.pooling import doc_vectors
from spacy_bertft.learning.losses import CrossEntropy, MeanSquaredError, Targets

pytestmark = pytest.mark.touches_transformers

FACTORY = "test_head_factory_length"


class MeanHead(Head):
    """One linear layer on the mean of a Doc's subwords."""

    def __init__(self, width):
        super().__init__()
        self.output = new_linear(width, 1)

    def forward(self, features):
        return self.output(doc_vectors(features, "mean"))


@dataclass(frozen=True)
class LengthTask:
    """How long a Doc is, in its unit, over the longest."""

    unit: Literal["tokens", "letters"] = "tokens"
    longest: int = 10
    tolerance: float = 0.25
    needs_segments = False

    def labels_in(self, examples):
        return ["LENGTH"]

    def check(self, labels):
        pass

    def prepare(self, examples):
        return {"seen": len(examples)}

    def build(self, width, n_labels, pooler):
        return MeanHead(width)

    def targets(self, output, examples):
        values = torch.tensor([[self._length(eg.reference) / self.longest] for eg in examples])
        return Targets("number", values, torch.ones(len(examples), 1, dtype=torch.bool))

    def annotate(self, docs, output):
        for doc, (share,) in zip(docs, output.logits.tolist(), strict=True):
            doc.user_data["length"] = share * self.longest

    def _length(self, doc):
        return len(doc) if self.unit == "tokens" else len(doc.text)


def length_score(examples, *, tolerance, labels, **_):
    off = [abs(eg.predicted.user_data["length"] - len(eg.reference)) for eg in examples]
    return {
        "length_acc": sum(one <= tolerance for one in off) / len(off),
        "length_error": sum(off) / len(off),
        "said": {"tolerance": tolerance, "labels": labels},
    }


@pytest.fixture(scope="module", autouse=True)
def make():
    registry.scorers("test_head_factory.length.v1", func=lambda: length_score)
    return head_factory(
        FACTORY,
        LengthTask,
        LengthTask,
        assigns=["doc.user_data"],
        scorer="test_head_factory.length.v1",
        score_weights={"length_acc": 1.0, "length_error": None},
        scored_by=["tolerance"],
        score_kinds={"length_error": ERROR},
        loss="spacy-bertft.MeanSquaredError.v1",
    )


def added(**config):
    return spacy.blank("en").add_pipe(FACTORY, name="length", config=config)


# --- settings


def test_the_factory_is_registered_and_returned(make):
    assert Language.has_factory(FACTORY)
    assert list(inspect.signature(make).parameters) == [
        *("nlp", "name", "encoder", "loss", "learn_rate_factor", "scorer"),
        *("unit", "longest", "tolerance"),
    ]


def test_own_and_common_settings_have_their_defaults():
    nlp = spacy.blank("en")
    pipe = nlp.add_pipe(FACTORY, name="length")
    assert isinstance(pipe, HeadPipe)
    assert pipe.task == LengthTask()
    assert (pipe.upstream, pipe.learn_rate_factor, pipe.loss) == (None, None, MeanSquaredError())
    assert pipe.scorer is length_score
    assert nlp.config["components"]["length"] == {
        "factory": FACTORY,
        "encoder": None,
        "unit": "tokens",
        "longest": 10,
        "tolerance": 0.25,
        "loss": {"@losses": "spacy-bertft.MeanSquaredError.v1"},
        "learn_rate_factor": None,
        "scorer": {"@scorers": "test_head_factory.length.v1"},
    }


def test_own_settings_reach_the_task_and_common_ones_the_component():
    pipe = added(
        unit="letters",
        longest=50,
        encoder="bert",
        learn_rate_factor=0.5,
        loss={"@losses": "spacy-bertft.CrossEntropy.v1"},
        scorer=None,
    )
    assert pipe.task == LengthTask("letters", 50)
    assert (pipe.upstream, pipe.learn_rate_factor, pipe.loss) == ("bert", 0.5, CrossEntropy())
    assert pipe.scorer is None


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"unit": "miles"}, "unit"),
        ({"longest": "very"}, "longest"),
        ({"longest": None}, "longest"),
        ({"shortest": 1}, "shortest"),
        ({"needs_segments": True}, "needs_segments"),
        ({"learn_rate_factor": "fast"}, "learn_rate_factor"),
        ({"scorer": "length"}, "scorer"),
    ],
)
def test_values_of_another_kind_and_settings_that_it_does_not_have_are_refused(config, where):
    with pytest.raises(ConfigValidationError, match=rf"{FACTORY} -> {where}"):
        added(**config)


@pytest.mark.parametrize(
    ("factory", "config"),
    [
        ("bertft_ner", {"scheme": "xyz"}),
        ("bertft_ner", {"pooling": "cls"}),
        ("bertft_textcat", {"pooling": "first"}),
        ("bertft_textcat", {"exclusive": False}),
        ("bertft_textcat_multilabel", {"positive_label": "home"}),
        ("bertft_regression", {"threshold": 0.5}),
    ],
)
def test_so_are_those_of_the_heads_there_are(factory, config):
    with pytest.raises(ConfigValidationError, match=rf"{factory} -> {next(iter(config))}"):
        spacy.blank("en").add_pipe(factory, config=config)


@pytest.mark.parametrize(
    ("factory", "loss"),
    [
        ("bertft_ner", CrossEntropy()),
        ("bertft_textcat", CrossEntropy()),
        ("bertft_textcat_multilabel", CrossEntropy()),
        ("bertft_pair", CrossEntropy()),
        ("bertft_qa", CrossEntropy()),
        ("bertft_regression", MeanSquaredError()),
    ],
)
def test_each_head_learns_by_the_loss_for_what_it_predicts(factory, loss):
    pipe = spacy.blank("en").add_pipe(factory)
    assert pipe.loss == loss
    assert callable(pipe.scorer)


# --- what spaCy knows of it


def test_spacy_knows_what_it_assigns_and_how_it_is_scored():
    nlp = spacy.blank("en")
    nlp.add_pipe(FACTORY, name="length")
    meta = nlp.get_pipe_meta("length")
    assert meta.assigns == ["doc.user_data"]
    assert meta.default_score_weights == {"length_acc": 1.0, "length_error": None}


def test_scores_of_another_kind_are_declared():
    assert kind_of("length_error") is ERROR
    assert kind_of("length_acc") is POINTS


def test_settings_that_the_scorer_reads_are_in_the_cfg():
    pipe = added(tolerance=0.5)
    assert pipe.cfg["tolerance"] == 0.5
    assert "longest" not in pipe.cfg


# --- at work


@pytest.fixture(scope="module")
def nlp(make, tiny_bert):
    nlp = blank(tiny_bert, {"length": FACTORY})
    torch.manual_seed(0)
    nlp.initialize(lambda: examples(nlp))
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 3e-3
    for _ in range(60):
        nlp.update(examples(nlp), sgd=optimizer)
    return nlp


def test_it_learns_and_annotates(nlp):
    found = [doc.user_data["length"] for doc in nlp.pipe(TEXTS)]
    assert found == pytest.approx([len(nlp.make_doc(text)) for text in TEXTS], abs=0.5)
    assert nlp.get_pipe("length").labels == ("LENGTH",)


def test_what_it_found_in_its_training_data_is_kept(nlp):
    assert nlp.get_pipe("length").cfg["statistics"] == {"seen": len(ANNOTATED)}
    assert nlp.get_pipe("length").cfg["targets_per_doc"] == 1.0


def test_its_scorer_gets_its_settings_and_labels(nlp):
    scores = nlp.evaluate(examples(nlp))
    assert scores["length_error"] < 0.5
    assert scores["said"] == {"tolerance": 0.25, "labels": ("LENGTH",)}


def test_it_is_saved_and_a_setting_can_be_changed_at_loading(nlp, tmp_path):
    nlp.to_disk(tmp_path)
    again, changed = spacy.load(tmp_path), spacy.load(tmp_path, config={"components.length.tolerance": 0.125})
    expected = nlp(TEXTS[1]).user_data["length"]
    assert again(TEXTS[1]).user_data["length"] == pytest.approx(expected, abs=1e-4)
    assert again.get_pipe("length").cfg["statistics"] == {"seen": len(ANNOTATED)}
    assert changed.get_pipe("length").cfg["tolerance"] == changed.get_pipe("length").task.tolerance == 0.125
    assert load_config(tmp_path / "config.cfg")["components"]["length"]["tolerance"] == 0.25


# --- other settings classes


def register(name, settings, task):
    return head_factory(name, settings, task, assigns=[], scorer="test_head_factory.length.v1", score_weights={})


def test_the_settings_can_be_fewer_than_those_of_the_task():
    @dataclass(frozen=True)
    class LongestOnly:
        longest: int = 7

    register(f"{FACTORY}_fewer", LongestOnly, lambda longest: LengthTask("letters", longest))
    nlp = spacy.blank("en")
    assert nlp.add_pipe(f"{FACTORY}_fewer", name="length").task == LengthTask("letters", 7)
    with pytest.raises(ConfigValidationError, match="-> unit"):
        nlp.add_pipe(f"{FACTORY}_fewer", name="other", config={"unit": "tokens"})


def test_a_default_can_come_from_a_factory():
    @dataclass(frozen=True)
    class Listed:
        longest: list[int] = field(default_factory=lambda: [7])

    register(f"{FACTORY}_listed", Listed, lambda longest: LengthTask("letters", longest[0]))
    assert spacy.blank("en").add_pipe(f"{FACTORY}_listed").task == LengthTask("letters", 7)
