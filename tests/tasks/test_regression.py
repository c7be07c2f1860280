"""`bertft_regression`: one number of a text or of a pair."""

from __future__ import annotations

import numpy as np
import pytest
import spacy
import torch
from hypothesis import given
from hypothesis import strategies as st
from pipelines import blank, loss_of, module_of
from spacy.tokens import DocBin
from spacy.training import Example

from spacy_bertft import pair_doc
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.tasks.regression import RegressionTask, score_values

pytestmark = pytest.mark.touches_transformers

REGRESSION = {"rating": "bertft_regression"}
RATED = [
    ("Anna lives in Berlin", 4.5),
    ("Bob Stone went to work in Rome yesterday", 1.0),
    ("Nothing happened", 3.0),
    ("I met Clara in the office", 2.0),
    ("Paris and Oslo are far from my home and garden", 5.0),
]
ALIKE = [("Anna lives in Berlin", "Anna is in Berlin", 5.0), ("A long meeting", "Paris and Oslo", 0.5)]


def example(nlp, text, value):
    doc = nlp.make_doc(text) if isinstance(text, str) else text
    gold = doc.copy()
    gold._.value = value
    return Example(doc, gold)


def examples(nlp, rated=RATED):
    return [example(nlp, text, value) for text, value in rated]


def learned(encoder, rated=RATED, steps=80, **settings):
    nlp = blank(encoder, {})
    nlp.add_pipe("bertft_regression", name="rating", config=settings)
    torch.manual_seed(0)
    nlp.initialize(lambda: examples(nlp, rated))
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 3e-3
    for _ in range(steps):
        nlp.update(examples(nlp, rated), sgd=optimizer)
    return nlp


@pytest.fixture(scope="module")
def trained(tiny_bert):
    return learned(tiny_bert)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_numbers_are_learned(tiny_bert, pooling):
    nlp = learned(tiny_bert, pooling=pooling, steps=120)
    for text, value in RATED:
        assert nlp(text)._.value == pytest.approx(value, abs=0.3)
    scores = nlp.evaluate(examples(nlp))
    assert scores["value_pearson"] > 0.98
    assert scores["value_spearman"] == pytest.approx(1.0)
    assert scores["value_mae"] <= scores["value_rmse"] < 0.3


def test_numbers_of_pairs_are_learned(tiny_bert):
    nlp = blank(tiny_bert, REGRESSION)
    golds = [example(nlp, pair_doc(nlp, first, second), value) for first, second, value in ALIKE]
    torch.manual_seed(0)
    nlp.initialize(lambda: golds)
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 3e-3
    for _ in range(40):
        nlp.update(golds, sgd=optimizer)
    for first, second, value in ALIKE:
        assert nlp(pair_doc(nlp, first, second))._.value == pytest.approx(value, abs=0.3)


def test_mean_and_deviation_of_the_training_data_are_saved_with_it(trained, tmp_path):
    values = [value for _, value in RATED]
    statistics = trained.get_pipe("rating").cfg["statistics"]
    assert statistics == {"mean": pytest.approx(np.mean(values)), "scale": pytest.approx(np.std(values))}
    trained.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    assert loaded.get_pipe("rating").cfg["statistics"] == pytest.approx(statistics)  # JSON has ten digits
    for text, _ in RATED:
        assert loaded(text)._.value == pytest.approx(trained(text)._.value, abs=1e-5)
    again = blank("nowhere", REGRESSION).from_bytes(trained.to_bytes())
    assert again(RATED[0][0])._.value == pytest.approx(trained(RATED[0][0])._.value, abs=1e-5)


def test_the_scale_of_the_numbers_does_not_matter(tiny_bert, trained):
    large = learned(tiny_bert, [(text, 1e6 + 1e4 * value) for text, value in RATED])
    for text, _ in RATED:
        assert large(text)._.value == pytest.approx(1e6 + 1e4 * trained(text)._.value, abs=30.0)


def test_one_number_alone_is_its_own_mean(tiny_bert):
    nlp = learned(tiny_bert, [("Nothing happened", 7.0)], steps=5)
    assert nlp.get_pipe("rating").cfg["statistics"] == {"mean": 7.0, "scale": 1.0}
    assert np.isfinite(nlp("Anything")._.value)


def test_texts_without_a_number_are_left_out_of_the_loss(trained):
    pipe = trained.get_pipe("rating")
    (rated, *_), bare = examples(trained), example(trained, "Nothing", None)
    both, alone = loss_of(pipe, [rated, bare]), loss_of(pipe, [rated])
    torch.testing.assert_close(both, alone)
    assert loss_of(pipe, [bare]) == 0.0


def test_the_loss_is_the_squared_distance_in_deviations(trained):
    pipe = trained.get_pipe("rating")
    gold = example(trained, RATED[1][0], 2.5)
    statistics = pipe.cfg["statistics"]
    found = trained(RATED[1][0])._.value
    expected = ((found - 2.5) / statistics["scale"]) ** 2
    assert float(loss_of(pipe, [gold])) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_predicted_numbers_survive_a_doc_bin(trained):
    docs = list(trained.pipe([text for text, _ in RATED]))
    saved = DocBin(docs=docs, store_user_data=False).to_bytes()
    again = DocBin().from_bytes(saved).get_docs(trained.vocab)
    assert [doc._.value for doc in again] == [doc._.value for doc in docs]


@pytest.mark.parametrize("text", ["", "   ", "\x00", "word " * 300])
def test_odd_texts_get_numbers_too(trained, text):
    assert np.isfinite(trained(text)._.value)


def test_it_starts_as_the_mean(tiny_bert):
    nlp = learned(tiny_bert, steps=0)
    assert nlp("Anna lives in Berlin")._.value == pytest.approx(np.mean([value for _, value in RATED]), abs=1.0)
    assert module_of(nlp, "rating").output.out_features == 1


def test_training_data_without_numbers_is_an_error(tiny_bert):
    nlp = blank(tiny_bert, REGRESSION)
    with pytest.raises(DataError, match=r"'rating' found no labels: 1 training examples, none with an annotation"):
        nlp.initialize(lambda: [example(nlp, "Nothing", None)])


def test_labels_are_an_error(tiny_bert):
    nlp = blank(tiny_bert, {})
    nlp.add_pipe("bertft_regression", name="rating")
    with pytest.raises(ConfigError, match=r"got the labels good, bad; expected only VALUE"):
        nlp.get_pipe("rating").initialize(lambda: examples(nlp), nlp=nlp, labels=["good", "bad"])


def test_a_loss_for_categories_is_an_error(tiny_bert):
    nlp = blank(tiny_bert, {})
    nlp.add_pipe("bertft_regression", name="rating", config={"loss": {"@losses": "spacy-bertft.CrossEntropy.v1"}})
    nlp.initialize(lambda: examples(nlp))
    with pytest.raises(ConfigError, match=r"CrossEntropy, but the head is trained on numbers.*MeanSquaredError\.v1"):
        nlp.update(examples(nlp))


# --- scores


def scored(golds, founds):
    nlp = spacy.blank("en")
    egs = []
    for gold, found in zip(golds, founds, strict=True):
        eg = example(nlp, "word", gold)
        eg.predicted._.value = found
        egs.append(eg)
    return score_values(egs)


def test_scores_of_numbers_worked_out_by_hand():
    scores = scored([1.0, 2.0, 3.0, None], [2.0, 2.0, 5.0, 9.0])
    assert scores["value_mae"] == pytest.approx(1.0)
    assert scores["value_rmse"] == pytest.approx(np.sqrt(5 / 3))
    assert scores["value_pearson"] == pytest.approx(3 / np.sqrt(2 * 6))
    assert scores["value_spearman"] == pytest.approx(1.5 / np.sqrt(2 * 1.5))  # ranks 1.5, 1.5, 3


def test_equal_numbers_correlate_with_nothing():
    scores = scored([1.0, 2.0], [3.0, 3.0])
    assert scores["value_pearson"] == scores["value_spearman"] == 0.0
    assert scores["value_mae"] == pytest.approx(1.5)


def test_without_gold_numbers_there_are_no_scores():
    assert set(scored([None], [1.0]).values()) == {None}
    assert set(scored([], []).values()) == {None}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_correlations_are_those_of_numpy(pairs):
    gold, found = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    scores = scored(gold.tolist(), found.tolist())
    if gold.std() and found.std():
        ranks = [[(side < value).sum() + ((side == value).sum() + 1) / 2 for value in side] for side in (gold, found)]
        assert scores["value_pearson"] == pytest.approx(np.corrcoef(gold, found)[0, 1], abs=1e-9)
        assert scores["value_spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-9)


def test_the_task_needs_no_labels_to_prepare():
    assert RegressionTask().prepare([]) == {"mean": 0.0, "scale": 1.0}
