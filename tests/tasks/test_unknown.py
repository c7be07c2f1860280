"""An unknown category beside the exclusive ones that are learned; the temperature and the threshold that fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import spacy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pipelines import ANNOTATED, blank, output_of
from spacy.tokens import Doc
from spacy.training import Example
from spacy.vocab import Vocab

from spacy_bertft.components.task import HeadOutput
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.learning.losses import CrossEntropy
from spacy_bertft.tasks.calibration import fit_temperature
from spacy_bertft.tasks.scorers import score_categories
from spacy_bertft.tasks.textcat import CategoryTask

pytestmark = pytest.mark.touches_transformers

UNKNOWN = ["She sells sea shells by the sea shore.", "The quick brown fox jumps over the lazy dog.", "Merci beaucoup."]
KNOWN = [(text, cat) for text, _, cat in ANNOTATED]
ALL = [*KNOWN, *((text, "none") for text in UNKNOWN)]
LABELS = ("home", "work")
VOCAB = Vocab()


def configured(folder, **config):
    nlp = blank(folder, {})
    nlp.add_pipe("bertft_textcat", name="textcat", config={"unknown_label": "none", **config})
    return nlp


def example(nlp, text, cat):
    cats = {label: float(label == cat) for label in (*LABELS, "none")}
    return Example.from_dict(nlp.make_doc(text), {"cats": cats})


def examples(nlp, annotated=ALL):
    return [example(nlp, *one) for one in annotated]


@pytest.fixture(scope="module")
def trained(tiny_bert):
    nlp = configured(tiny_bert)
    torch.manual_seed(0)
    optimizer = nlp.initialize(lambda: examples(nlp))
    optimizer.learn_rate = 3e-3
    for _ in range(60):
        nlp.update(examples(nlp), sgd=optimizer)
    return nlp.to_bytes()


@pytest.fixture
def load(tiny_bert, trained):
    return lambda **config: configured(tiny_bert, **config).from_bytes(trained)


def doc_with(cats):
    doc = Doc(VOCAB, words=["word"])
    doc.cats = cats
    return doc


def output_with(logits, labels):
    return HeadOutput(logits, None, tuple(labels))


def loss_of(logits, egs, labels):
    return CrossEntropy()(logits, CategoryTask(unknown_label="none").targets(output_with(logits, labels), egs))


def annotated(task, logits, labels):
    """doc.cats for rows of logits."""
    docs = [doc_with({}) for _ in logits]
    task.annotate(docs, output_with(np.asarray(logits, dtype=np.float32), labels))
    return [doc.cats for doc in docs]


# --- in a pipeline


def test_it_is_no_label_and_is_predicted(load):
    nlp = load()
    assert nlp.get_pipe("textcat").labels == LABELS
    assert nlp.get_pipe("textcat").label_data == list(LABELS)
    for doc in nlp.pipe(text for text, _ in ALL):
        assert set(doc.cats) == {*LABELS, "none"}
        assert sum(doc.cats.values()) == pytest.approx(1.0)


def test_known_and_unknown_texts_are_told_apart(load):
    scores = load(unknown_threshold=-20.0).evaluate(examples(load()))
    assert scores["cats_known_acc"] == 1.0
    assert scores["cats_unknown_r"] == 0.0
    assert scores["cats_unknown_auc"] == 1.0
    all_unknown = load(unknown_threshold=20.0).evaluate(examples(load()))
    assert (all_unknown["cats_known_acc"], all_unknown["cats_unknown_r"]) == (0.0, 1.0)


def test_its_probability_is_a_logistic_function_of_the_energy(load):
    nlp = load(unknown_threshold=1.5, temperature=2.5)
    docs = [nlp.make_doc(text) for text, _ in ALL]
    logits = output_of(nlp.get_pipe("textcat"), docs).logits
    expected = torch.sigmoid(1.5 - (logits / 2.5).logsumexp(dim=1))
    found = torch.tensor([doc.cats["none"] for doc in nlp.pipe(docs)])
    torch.testing.assert_close(found, expected)
    assert len({round(one, 3) for one in found.tolist()}) > 3


def test_unknown_texts_are_learned_from(tiny_bert):
    nlp = configured(tiny_bert)
    torch.manual_seed(0)
    nlp.initialize(lambda: examples(nlp))
    losses = nlp.update([example(nlp, text, "none") for text in UNKNOWN], sgd=False)
    assert losses["textcat"] == pytest.approx(np.log(2), abs=0.05)  # of a head that is sure of nothing yet


def test_it_survives_saving(load, tmp_path):
    nlp = load(unknown_threshold=1.5, temperature=2.5)
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    assert again.config["components"]["textcat"]["unknown_label"] == "none"
    text = UNKNOWN[0]
    assert again(text).cats == pytest.approx(nlp(text).cats)
    several = list(again.pipe([text] * 3, n_process=2, batch_size=2))
    assert [doc.cats for doc in several] == [pytest.approx(nlp(text).cats)] * 3


def test_without_it_nothing_changes(tiny_bert):
    nlp = configured(tiny_bert, unknown_label=None)
    nlp.initialize(lambda: examples(nlp))
    assert nlp.get_pipe("textcat").labels == ("home", "none", "work")
    scores = nlp.evaluate(examples(nlp))
    assert not [name for name in scores if "known" in name]


def test_it_can_not_be_a_label_too(tiny_bert):
    nlp = configured(tiny_bert)
    with pytest.raises(ConfigError, match=r"unknown_label is 'none', which is also a label.*home, none.*Take it out"):
        nlp.get_pipe("textcat").initialize(lambda: examples(nlp), nlp=nlp, labels=["home", "none"])
    nlp = configured(tiny_bert)
    nlp.get_pipe("textcat").add_label("none")
    with pytest.raises(ConfigError, match="unknown_label is 'none'"):
        nlp.initialize(lambda: examples(nlp))


def test_two_others_are_needed(tiny_bert):
    nlp = configured(tiny_bert)
    with pytest.raises(ConfigError, match=r"at least two labels.*Found 1: home"):
        nlp.initialize(lambda: [Example.from_dict(nlp.make_doc("a"), {"cats": {"home": 1.0, "none": 0.0}})])
    nlp = configured(tiny_bert)
    with pytest.raises(DataError, match="found no labels"):
        nlp.initialize(lambda: [Example.from_dict(nlp.make_doc("a"), {"cats": {"none": 1.0}})])


def test_a_category_that_was_not_learned_is_an_error(load):
    nlp = load()
    with pytest.raises(DataError, match=r"gold category is 'new'.*home, work"):
        nlp.update([Example.from_dict(nlp.make_doc("a"), {"cats": {"new": 1.0, "none": 0.0}})], sgd=False)


# --- prediction and loss, without an encoder

ROWS = st.lists(st.floats(-8, 8, width=16), min_size=3, max_size=3)


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=5), st.floats(-9, 9, width=16), st.sampled_from([0.25, 0.5, 1.0, 2.0]))
def test_it_is_the_best_exactly_where_no_logit_reaches_the_threshold(rows, threshold, temperature):
    task = CategoryTask(True, unknown_label="none", unknown_threshold=threshold, temperature=temperature)
    for row, cats in zip(rows, annotated(task, rows, "abc"), strict=True):
        gap = threshold - max(row) / temperature
        assert sum(cats.values()) == pytest.approx(1.0, abs=1e-5)
        if gap == 0 or abs(gap) > 1e-5:  # two probabilities that differ by less may be the same number
            assert (max(cats, key=cats.get) == "none") == (gap > 0)  # a tie goes to the known one
        energy = np.logaddexp.reduce(np.array(row) / temperature)
        assert cats["none"] == pytest.approx(1 / (1 + np.exp(energy - threshold)), abs=1e-5)


def test_the_temperature_works_without_an_unknown_category_too():
    (cats,) = annotated(CategoryTask(True, temperature=2.0), [[2.0, 0.0]], "ab")
    assert cats == pytest.approx({"a": 1 / (1 + np.exp(-1)), "b": 1 / (1 + np.exp(1))})


@pytest.mark.parametrize("gold", [{"none": 1.0}, {"a": 0.0, "b": 0.0, "c": 0.0, "none": 1.0}])
def test_the_loss_of_an_unknown_text_is_the_cross_entropy_to_uniform(gold):
    logits = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, 0.0]])
    egs = [Example(doc_with({}), doc_with(gold)), Example(doc_with({}), doc_with({"a": 1.0, "none": 0.0}))]
    loss = loss_of(logits, egs, "abc")
    rows = logits.log_softmax(dim=1)
    torch.testing.assert_close(loss, -rows[0].mean() - rows[1, 0])


def test_not_unknown_alone_says_nothing():
    logits = torch.tensor([[1.0, -2.0]])
    egs = [Example(doc_with({}), doc_with({"none": 0.0}))]
    assert loss_of(logits, egs, "ab") == 0.0


# --- scores

PREDICTED = [  # gold category, predicted scores
    ("a", {"a": 0.6, "b": 0.3, "none": 0.1}),
    ("b", {"a": 0.5, "b": 0.3, "none": 0.2}),
    ("a", {"a": 0.2, "b": 0.2, "none": 0.6}),
    ("none", {"a": 0.2, "b": 0.1, "none": 0.7}),
    ("none", {"a": 0.55, "b": 0.2, "none": 0.25}),
]


def scored(predicted=PREDICTED, **options):
    golds = ({name: float(name == gold) for name in ("a", "b", "none")} for gold, _ in predicted)
    egs = [Example(doc_with(cats), doc_with(gold)) for gold, (_, cats) in zip(golds, predicted, strict=True)]
    return score_categories(egs, labels=["a", "b"], **options)


def test_scores_of_known_and_unknown_texts():
    scores = scored(unknown_label="none")
    assert scores["cats_known_acc"] == pytest.approx(1 / 3)
    assert scores["cats_unknown_r"] == pytest.approx(1 / 2)
    assert scores["cats_unknown_auc"] == pytest.approx(5 / 6)  # of 2 * 3 pairs, all but (0.25, 0.6)
    assert set(scores["cats_f_per_type"]) == {"a", "b", "none"}


def test_no_such_scores_without_an_unknown_category():
    scores = scored()
    assert not [name for name in scores if "known" in name]
    assert set(scores["cats_f_per_type"]) == {"a", "b"}


def test_scores_that_there_is_nothing_for_are_none():
    assert scored(PREDICTED[:3], unknown_label="none")["cats_unknown_auc"] is None
    assert scored(PREDICTED[3:], unknown_label="none")["cats_known_acc"] is None
    assert scored(PREDICTED[3:], unknown_label="none")["cats_unknown_auc"] is None


def test_texts_without_annotation_are_not_scored():
    bare = Example(doc_with(PREDICTED[0][1]), doc_with({}))
    golds = [Example(doc_with(cats), doc_with({gold: 1.0})) for gold, cats in PREDICTED]
    scores = score_categories([*golds, bare], labels=["a", "b"], unknown_label="none")
    assert scores["cats_known_acc"] == pytest.approx(1 / 3)


def test_categories_of_other_components_are_not_scored():
    """Such as those of a second, frozen bertft_textcat."""
    more = [(gold, {**cats, "of_another": 0.9}) for gold, cats in PREDICTED]
    plain, scores = scored(unknown_label="none"), scored(more, unknown_label="none")
    assert scores["cats_unknown_r"] == plain["cats_unknown_r"]
    assert scores["cats_known_acc"] == plain["cats_known_acc"]


def test_the_scorer_is_registered():
    made = spacy.registry.scorers.get("spacy-bertft.textcat_scorer.v1")()
    assert made is score_categories


# --- what fits


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 8.0])
def test_the_temperature_of_sampled_logits_is_found(temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=4 * temperature, size=(4000, 5)).astype(np.float32)
    scaled = logits / temperature
    gold = (scaled + rng.gumbel(size=scaled.shape)).argmax(axis=1)  # a sample of the softmax
    assert fit_temperature(logits, gold) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
def test_a_few_texts_that_are_all_right_make_nothing_certain(size):
    logits = size * np.array([[3.0, 0.0], [0.0, 3.0]] * 5, dtype=np.float32)
    scaled = logits / fit_temperature(logits, np.array([0, 1] * 5))
    assert 0.9 < (1 / (1 + np.exp(scaled.min(axis=1) - scaled.max(axis=1)))).max() < 0.97


def test_the_temperature_has_bounds():
    logits = np.array([[3.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(20.0, rel=1e-3)


def evidence_of(rows):
    return [(np.array(logits, dtype=np.float32), gold) for logits, gold in rows]


# Quarters, so that rounding the threshold does not matter.
QUARTERS = st.integers(-12, 12).map(lambda number: number / 4)
KNOWN_ROWS = st.tuples(st.lists(QUARTERS, min_size=3, max_size=3), st.integers(0, 2))
UNKNOWN_ROWS = st.tuples(st.lists(QUARTERS, min_size=3, max_size=3), st.just(3))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(KNOWN_ROWS, min_size=1, max_size=8),
    st.lists(UNKNOWN_ROWS, min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_the_fitted_threshold_is_the_best_of_all(known, unknown, random):
    evidence = evidence_of(known + unknown)
    random.shuffle(evidence)
    fitted = CategoryTask(True, unknown_label="none").fit(evidence)
    best = np.array([row.max() for row, _ in evidence]) / fitted["temperature"]
    right = np.array([gold < 3 and row.argmax() == gold for row, gold in evidence])
    is_unknown = np.array([gold == 3 for _, gold in evidence])

    def value(threshold):
        kept = (right & (best >= threshold)).sum() / (~is_unknown).sum()
        return kept + (is_unknown & (best < threshold)).sum() / is_unknown.sum()

    edges = np.unique(best)
    every = [edges[0] - 1, *((edges[1:] + edges[:-1]) / 2), edges[-1] + 1]
    assert value(fitted["unknown_threshold"]) == pytest.approx(max(map(value, every)))


def test_what_fits_is_what_is_predicted():
    rows = [([4.0, 0.0], 0), ([0.0, 3.0], 1), ([2.5, 0.0], 1), ([1.0, 0.5], 2), ([0.25, 1.5], 2), ([2.75, 1.0], 2)]
    task = CategoryTask(True, unknown_label="none")
    fitted = replace(task, **task.fit(evidence_of(rows)))
    assert fitted.temperature != 1.0
    cats = annotated(fitted, [logits for logits, _ in rows], "ab")
    assert [max(one, key=one.get) for one in cats] == ["a", "b", "none", "none", "none", "none"]


def test_unknown_texts_do_not_change_the_temperature():
    known = [([2.0, 0.0], 0), ([0.0, 1.0], 1), ([1.0, 0.5], 1)]
    plain = CategoryTask(True).fit(evidence_of(known))
    both = CategoryTask(True, unknown_label="none").fit(evidence_of([*known, ([9.0, 0.0], 2)]))
    assert plain["temperature"] == both["temperature"]
    assert set(plain) == {"temperature"}
    assert 0.06 < plain["temperature"] < 19


def test_the_evidence_of_annotated_texts():
    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    golds = [{"b": 1.0, "a": 0.0}, {}, {"none": 1.0}, {"a": 0.0, "of_another": 1.0}]
    egs = [Example(doc_with({}), doc_with(gold)) for gold in golds]
    found = CategoryTask(True, unknown_label="none").evidence(output_with(logits.numpy(), "ab"), egs)
    assert [(row.tolist(), gold) for row, gold in found] == [([1.0, 2.0], 1), ([5.0, 6.0], 2)]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([([1.0, 0.0], 0)], "1 texts of known categories and 0 others"),
        ([([1.0, 0.0], 2)], "0 texts of known categories and 1 others"),
    ],
)
def test_both_kinds_of_texts_are_needed(rows, found):
    with pytest.raises(DataError, match=rf"Found {found} to fit on.*known categories and of 'none'"):
        CategoryTask(True, unknown_label="none").fit(evidence_of(rows))


def test_nothing_fits_categories_that_are_not_exclusive():
    assert CategoryTask(False).fit(evidence_of([([1.0, 0.0], 0)])) == {}
