"""The answer head, its scorer, and its search for the best span."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import spacy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pipelines import blank, loss_of, module_of, output_of
from spacy.tokens import DocBin
from spacy.training import Corpus, Example

from spacy_bertft import question_doc
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.tasks.answer_spans import best_spans
from spacy_bertft.tasks.qa import AnswerTask
from spacy_bertft.tasks.scorers import exact_match, normalise, score_answers, token_f1

pytestmark = pytest.mark.touches_transformers

CONTEXT = "Anna lives in Berlin near the old garden. Bob Stone went to work in Rome yesterday."
OTHER = "Paris and Oslo are far from my home and garden."
# question, context, first gold answer ("" for none)
ANNOTATED = [
    ("Where does Anna live?", CONTEXT, "Berlin"),
    ("Where did Bob go?", CONTEXT, "Rome"),
    ("When did Bob go to Rome?", CONTEXT, "yesterday"),
    ("Who is Clara?", CONTEXT, ""),
    ("What is far from home?", OTHER, "Paris and Oslo"),
    ("Who lives in Paris?", OTHER, ""),
]


def gold(nlp, question, context, *answers, texts=None):
    doc = question_doc(nlp, question, context)
    first = doc.spans["segments"][1].start_char
    starts = [first + context.index(answer) for answer in answers if answer]
    spans = [
        doc.char_span(start, start + len(answer), label="ANSWER", alignment_mode="expand")
        for start, answer in zip(starts, answers, strict=False)
    ]
    doc.spans["answers"] = spans
    if texts:
        doc.spans["answers"].attrs["texts"] = list(texts)
    return doc


def examples(nlp, annotated=ANNOTATED):
    return [Example(question_doc(nlp, question, context), gold(nlp, question, context, answer))
            for question, context, answer in annotated]  # fmt: skip


def configured(folder, **config):
    nlp = blank(folder, {})
    nlp.add_pipe("bertft_qa", name="qa", config=config)
    return nlp


_trained = {}


def trained(folder, **config):
    if folder not in _trained:
        nlp = configured(folder)
        torch.manual_seed(0)
        optimizer = nlp.initialize(lambda: examples(nlp))
        optimizer.learn_rate = 3e-3
        for _ in range(120):
            nlp.update(examples(nlp), sgd=optimizer)
        _trained[folder] = nlp.to_bytes()
    return configured(folder, **config).from_bytes(_trained[folder])


def answer(doc):
    return [span.text for span in doc.spans["answers"]]


# --- the whole


@pytest.mark.slow
def test_answers_are_learned(tiny_bert):
    nlp = trained(tiny_bert)
    for question, context, expected in ANNOTATED:
        doc = nlp(question_doc(nlp, question, context))
        assert answer(doc) == ([expected] if expected else [])
        (score,) = doc.spans["answers"].attrs["scores"] if expected else [1.0]
        assert 0.5 < score <= 1.0
        assert 0.0 <= doc.spans["answers"].attrs["no_answer"] <= 1.0
        assert [span.label_ for span in doc.spans["answers"]] == ["ANSWER"] * bool(expected)
        assert [span._.score for span in doc.spans["answers"]] == [pytest.approx(score)] * bool(expected)
    scores = nlp.evaluate(examples(nlp))
    assert scores["answer_em"] == scores["answer_f"] == scores["answer_acc_unanswerable"] == 1.0


def test_it_trains_and_answers_from_a_saved_corpus(tiny_bert, tmp_path):
    nlp = spacy.blank("en", config={"nlp": {"tokenizer": {"@tokenizers": "spacy-bertft.PairTokenizer.v1"}}})
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": str(tiny_bert), "device": "cpu"}
    nlp.add_pipe("bertft_encoder", name="encoder", config={"model": model})
    nlp.add_pipe("bertft_qa", name="qa")
    DocBin(docs=[gold(nlp, *one) for one in ANNOTATED]).to_disk(tmp_path / "train.spacy")
    corpus = Corpus(tmp_path / "train.spacy")
    optimizer = nlp.initialize(lambda: corpus(nlp))
    losses = [nlp.update(list(corpus(nlp)), sgd=optimizer)["qa"] for _ in range(8)]
    assert losses[-1] < losses[0]
    nlp.to_disk(tmp_path / "pipeline")
    again = spacy.load(tmp_path / "pipeline")
    assert again.evaluate(list(corpus(again)))["answer_f"] == nlp.evaluate(list(corpus(nlp)))["answer_f"]
    text = f"{ANNOTATED[0][0]}\t{CONTEXT}"
    assert answer(again(text)) == answer(nlp(text))


def test_several_processes_give_the_same(tiny_bert):
    nlp = trained(tiny_bert)
    docs = [question_doc(nlp, question, context) for question, context, _ in ANNOTATED]
    one = [answer(doc) for doc in nlp.pipe([doc.copy() for doc in docs])]
    assert [answer(doc) for doc in nlp.pipe(docs, n_process=2, batch_size=2)] == one
    assert [answer(doc) for doc in pickle.loads(pickle.dumps(nlp)).pipe(doc.copy() for doc in docs)] == one


def test_answers_survive_docbin(tiny_bert):
    nlp = trained(tiny_bert)
    doc = nlp(question_doc(nlp, *ANNOTATED[0][:2]))
    (again,) = DocBin(docs=[doc]).get_docs(nlp.vocab)
    assert answer(again) == ["Berlin"]
    assert again.spans["answers"][0]._.score == pytest.approx(doc.spans["answers"][0]._.score)


@pytest.mark.slow
def test_long_contexts_are_answered_from_any_window(tiny_bert):
    nlp = configured(tiny_bert)
    filler = "Nothing happened at home. " * 20
    (question, *_), (other, *_) = ANNOTATED[0], ANNOTATED[3]
    annotated = [(question, f"{CONTEXT} {filler}", "Berlin"), (question, filler + CONTEXT, "Berlin")]
    annotated.append((other, filler, ""))
    torch.manual_seed(0)
    optimizer = nlp.initialize(lambda: examples(nlp, annotated))
    optimizer.learn_rate = 3e-3
    for _ in range(100):
        nlp.update(examples(nlp, annotated), sgd=optimizer)
    docs = [question_doc(nlp, question, context) for question, context, _ in annotated]
    features = nlp.get_pipe("encoder").predict(docs)
    assert features.window_counts.min() > 2
    assert [answer(nlp(doc)) for doc in docs] == [["Berlin"], ["Berlin"], []]


def test_no_answer_is_as_likely_as_in_the_window_where_it_is_least_likely(tiny_bert):
    nlp = trained(tiny_bert)
    docs = [question_doc(nlp, "Where?", "Nothing happened at home. " * n) for n in (1, 30, 20)]
    features = nlp.get_pipe("encoder").predict(docs)
    logits = nlp.get_pipe("qa").model.predict(features)[sum(map(len, docs)) :]
    head = module_of(nlp, "qa")
    of_windows = (features.hidden @ head.output.weight.T + head.output.bias)[features.cls_rows]
    parts = of_windows.split(features.window_counts.tolist())
    torch.testing.assert_close(logits, torch.stack([part.amin(dim=0) for part in parts]))


# --- settings


def test_n_best_come_in_order_with_probabilities(tiny_bert):
    doc = trained(tiny_bert, n_best=5, threshold=0.0)(question_doc(spacy.blank("en"), *ANNOTATED[0][:2]))
    scores = doc.spans["answers"].attrs["scores"].tolist()
    assert len(answer(doc)) == len(set(answer(doc))) == 5
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) + doc.spans["answers"].attrs["no_answer"] <= 1.0 + 1e-6


def test_the_threshold_decides_whether_there_is_an_answer(tiny_bert):
    docs = [question_doc(spacy.blank("en"), question, context) for question, context, _ in ANNOTATED]
    assert all(answer(doc) for doc in trained(tiny_bert, threshold=0.0).pipe(doc.copy() for doc in docs))
    assert not any(answer(doc) for doc in trained(tiny_bert, threshold=1.0).pipe(doc.copy() for doc in docs))


def test_answers_are_no_longer_than_allowed(tiny_bert):
    doc = trained(tiny_bert, max_tokens=1, n_best=50, threshold=0.0)(question_doc(spacy.blank("en"), *ANNOTATED[4][:2]))
    assert {len(span) for span in doc.spans["answers"]} == {1}


@pytest.mark.parametrize("name", ["max_tokens", "n_best"])
def test_settings_that_make_no_sense_are_refused(tiny_bert, name):
    with pytest.raises(ConfigError, match=f"{name} of bertft_qa is 0; expected at least 1"):
        configured(tiny_bert, **{name: 0})


# --- the loss


def test_the_loss_is_the_mean_of_start_and_end(tiny_bert):
    nlp = trained(tiny_bert)
    pipe = nlp.get_pipe("qa")
    egs = examples(nlp)
    docs = [eg.predicted for eg in egs]
    logits = output_of(pipe, docs).logits
    expected = 0.0
    first_tokens = np.cumsum([0, *map(len, docs)])
    for place, (doc, (_, _, text)) in enumerate(zip(docs, ANNOTATED, strict=True)):
        context = doc.spans["segments"][1]
        rows = logits[first_tokens[place] + context.start : first_tokens[place] + context.end]
        both = torch.cat([logits[sum(map(len, docs)) + place][None], rows])
        words = [token.text for token in context]
        found = text.split()
        start = words.index(found[0]) + 1 if text else 0
        end = start + len(found) - 1 if text else 0
        expected += (both[:, 0].logsumexp(0) - both[start, 0] + both[:, 1].logsumexp(0) - both[end, 1]) / 2
    torch.testing.assert_close(loss_of(pipe, egs), expected)


def test_questions_without_annotation_are_left_out_of_the_loss(tiny_bert):
    nlp = trained(tiny_bert)
    pipe = nlp.get_pipe("qa")
    egs = examples(nlp)
    bare = [Example(eg.predicted.copy(), question_doc(nlp, *one[:2])) for eg, one in zip(egs, ANNOTATED, strict=True)]
    docs = [eg.predicted for eg in egs]
    assert loss_of(pipe, bare, docs) == 0.0
    assert 0.0 < loss_of(pipe, [*bare[:-1], egs[-1]], docs) < loss_of(pipe, egs)


@pytest.mark.parametrize(
    "loss", [{"label_smoothing": 0.1}, {"@losses": "spacy-bertft.FocalLoss.v1"}, {"temperature": 3.0}]
)
def test_other_losses_leave_out_the_same_questions(tiny_bert, loss):
    nlp = trained(tiny_bert, loss=loss)
    pipe = nlp.get_pipe("qa")
    egs = examples(nlp)
    docs = [eg.predicted for eg in egs]
    bare = [Example(doc, question_doc(nlp, question, context)) for doc, (question, context, _) in
            zip(docs, ANNOTATED, strict=True)]  # fmt: skip
    assert loss_of(pipe, bare, docs) == 0.0
    plain = loss_of(trained(tiny_bert).get_pipe("qa"), egs)
    # Answers are places of a text, not soft targets: a temperature leaves their loss alone.
    assert (loss_of(pipe, egs).item() == plain.item()) is ("temperature" in loss)
    assert np.isfinite(nlp.update(egs, sgd=False)["qa"])
    assert module_of(nlp, "qa").output.weight.grad.isfinite().all()


def test_places_of_a_text_have_no_weights_of_their_own(tiny_bert):
    nlp = trained(tiny_bert, loss={"class_weights": "balanced"})
    with pytest.raises(
        ConfigError, match=r"class_weights is set, but .* the places of a text.*Leave class_weights out"
    ):
        nlp.update(examples(nlp), sgd=False)


def test_a_target_that_was_cut_off_is_left_out_of_the_loss(tiny_bert):
    nlp = spacy.blank("en")
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": str(tiny_bert), "device": "cpu"}
    nlp.add_pipe("bertft_encoder", name="encoder", config={"model": {**model, "long_pairs": "shorten"}})
    nlp.add_pipe("bertft_qa", name="qa")
    nlp.initialize(lambda: examples(nlp))
    filler = "Nothing happened at home. " * 20
    losses = nlp.update(examples(nlp, [("Where does Anna live?", filler + CONTEXT, "Berlin")]), sgd=False)
    assert losses["qa"] == 0.0
    assert answer(nlp(question_doc(nlp, "Where?", filler + CONTEXT))) is not None


# --- the best spans


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 12), st.integers(1, 15), st.integers(1, 6), st.integers(0, 2**31), st.data())
def test_the_best_spans_are_those_of_trying_all(length, max_tokens, n_best, seed, data):
    logits = np.random.default_rng(seed).normal(size=(length, 2))
    blocked = data.draw(st.lists(st.integers(0, length - 1), max_size=length - 1, unique=True))
    logits[blocked] = -np.inf
    found = best_spans(logits, 0.3, 7, max_tokens, n_best)
    every = {
        (start + 7, end + 8): logits[start, 0] + logits[end, 1]
        for start in range(length)
        for end in range(start, min(length, start + max_tokens))
        if start not in blocked and end not in blocked
    }
    best = sorted(every, key=lambda span: -every[span])[:n_best]
    assert list(zip(found.starts.tolist(), found.ends.tolist(), strict=True)) == best
    np.testing.assert_allclose(found.scores, [every[span] for span in best])
    total = np.log(np.exp([*every.values(), 0.3]).sum())
    np.testing.assert_allclose(found.log_total, total)


# --- bad input


def test_a_doc_without_segments_is_an_error(tiny_bert):
    nlp = trained(tiny_bert)
    with pytest.raises(DataError, match=r"'qa' got a Doc without doc.spans\['segments'\].*question_doc"):
        nlp("Where does Anna live?")


def test_an_answer_outside_of_the_context_is_an_error(tiny_bert):
    nlp = trained(tiny_bert)
    doc = question_doc(nlp, *ANNOTATED[0][:2])
    doc.spans["answers"] = [doc[0:1]]
    with pytest.raises(DataError, match=r"gold answer 'Where' .* is not in the context.*Correct its offsets"):
        nlp.update([Example(question_doc(nlp, *ANNOTATED[0][:2]), doc)], sgd=False)


def test_no_annotated_question_is_an_error(tiny_bert):
    nlp = configured(tiny_bert)
    bare = [Example(question_doc(nlp, *one[:2]), question_doc(nlp, *one[:2])) for one in ANNOTATED]
    with pytest.raises(DataError, match="found no labels: 6 training examples"):
        nlp.initialize(lambda: bare)


def test_answers_inside_a_token_are_warned_of_once(tiny_bert):
    nlp = configured(tiny_bert)
    doc = gold(nlp, "Where?", "She is a Berliner now.", "Berliner", texts=["Berlin"])
    with pytest.warns(UserWarning, match="1 of 1 gold answers begin or end inside a token"):
        nlp.initialize(lambda: [Example(question_doc(nlp, "Where?", "She is a Berliner now."), doc)])


# --- scores


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat", "cat"),
        ("an apple, a day", "apple day"),
        ("theatre", "theatre"),
        ("(the) U.S.A.!", "usa"),
        ("state-of-the-art", "stateoftheart"),  # punctuation goes first
        ("“quoted”", "“quoted”"),  # ASCII punctuation alone
        ("£49.00", "£4900"),
        ("  \t tab\nline ", "tab line"),
        ("A", ""),
        ("", ""),
        ("Straße", "straße"),
        ("a-b the", "ab"),
    ],
)
def test_normalised_answers(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("gold", "predicted", "em", "f1"),
    [
        (["Berlin"], "berlin.", 1, 1),
        (["Berlin"], "in Berlin", 0, 2 / 3),
        (["in Berlin", "Berlin"], "the Berlin", 1, 1),
        (["four hours"], "hours", 0, 2 / 3),
        (["a b b"], "b b c", 0, 0.8),  # the article goes; words count as often as they occur
        (["Berlin"], "", 0, 0),
        ([], "", 1, 1),
        ([], "Berlin", 0, 0),
        (["the"], "", 1, 1),  # nothing is left of it
        (["the", "Berlin"], "", 0, 0),
        (["Berlin"], "the", 0, 0),
    ],
)
def test_exact_match_and_f1(gold, predicted, em, f1):
    assert exact_match(gold, predicted) == em
    assert token_f1(gold, predicted) == pytest.approx(f1)


def test_the_scorer_tells_questions_with_and_without_answer_apart():
    nlp = spacy.blank("en")
    predictions = ["Berlin near", "Rome", "", "garden", "Oslo", ""]
    egs = [
        Example(gold(nlp, *one[:2], text), gold(nlp, *one)) for one, text in zip(ANNOTATED, predictions, strict=True)
    ]
    egs.append(Example(gold(nlp, *ANNOTATED[0]), question_doc(nlp, *ANNOTATED[0][:2])))  # without gold
    scores = score_answers(egs)
    f1 = [2 / 3, 1, 0, 0, 2 / 3, 1]  # "Oslo" of "Paris and Oslo": 1 of 3
    f1[4] = 2 * 1 / (1 + 3)
    assert scores["answer_em"] == pytest.approx(2 / 6)
    assert scores["answer_f"] == pytest.approx(sum(f1) / 6)
    assert scores["answer_em_answerable"] == pytest.approx(1 / 4)
    assert scores["answer_f_answerable"] == pytest.approx((f1[0] + f1[1] + f1[2] + f1[4]) / 4)
    assert scores["answer_acc_unanswerable"] == 1 / 2


def test_the_annotators_own_words_are_scored():
    nlp = spacy.blank("en")
    reference = gold(nlp, "Where?", "She is a Berliner now.", "Berliner", texts=["Berlin", "berliner"])
    assert (
        score_answers([Example(gold(nlp, "Where?", "She is a Berliner now.", "Berliner"), reference)])["answer_em"] == 1
    )
    reference.spans["answers"].attrs["texts"] = ["Berlin"]
    assert (
        score_answers([Example(gold(nlp, "Where?", "She is a Berliner now.", "Berliner"), reference)])["answer_em"] == 0
    )


# --- the threshold that fits


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0, 9.0]), st.floats(0, 1), st.sampled_from([0.0, 1.0])),
        min_size=1,
        max_size=12,
    )
)
def test_the_fitted_threshold_is_the_best(evidence):
    (threshold,) = AnswerTask().fit(evidence).values()

    def f1(limit):
        shares = [1 / (1 + np.exp(-margin)) for margin, _, _ in evidence]
        return sum(ans if share >= limit else none for share, (_, ans, none) in zip(shares, evidence, strict=True))

    assert f1(threshold) == pytest.approx(max(map(f1, np.linspace(0, 1, 2001))))
