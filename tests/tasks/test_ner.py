"""The entity head: gold to tags, tags to doc.ents, scores that last."""

from __future__ import annotations

import numpy as np
import pytest
import spacy
import torch
from pipelines import ANNOTATED, TEXTS, blank, examples, initialized, loss_of, module_of, output_of, trained
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example

from spacy_bertft.tasks.entity_spans import Tagging
from spacy_bertft.tasks.ner import EntityTask

pytestmark = pytest.mark.touches_transformers

NER = {"ner": "bertft_ner"}


def _ents(doc):
    return [(ent.text, ent.label_) for ent in doc.ents]


def _configured(folder, **config):
    nlp = blank(folder, {})
    nlp.add_pipe("bertft_ner", name="ner", config=config)
    torch.manual_seed(0)
    nlp.initialize(lambda: examples(nlp))
    return nlp


def _learn(nlp, steps=60):
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 3e-3
    for _ in range(steps):
        nlp.update(examples(nlp), sgd=optimizer)
    return nlp


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["bio", "biluo", "io", "iob1"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_every_scheme_and_pooling_learns_the_examples(tiny_bert, scheme, pooling):
    nlp = _learn(_configured(tiny_bert, scheme=scheme, pooling=pooling))
    for text, entities, _ in ANNOTATED:
        assert _ents(nlp(text)) == [(text[start:end], label) for start, end, label in entities]
    assert nlp.evaluate(examples(nlp))["ents_f"] == 1.0


def test_white_space_in_an_entity_does_not_break_it(tiny_bert):
    nlp = trained(tiny_bert, NER)
    assert _ents(nlp("Bob \n Stone went to work in Rome yesterday"))[0] == ("Bob \n Stone", "PERSON")


def test_the_score_is_the_lowest_probability_of_its_tags(tiny_bert):
    nlp = trained(tiny_bert, NER, steps=25)
    doc = nlp.make_doc(TEXTS[1])
    logits = output_of(nlp.get_pipe("ner"), [doc]).logits
    doc = nlp(TEXTS[1])
    probabilities = logits.softmax(dim=1).max(dim=1).values
    assert doc.ents
    for ent in doc.ents:
        assert ent._.score == pytest.approx(float(probabilities[ent.start : ent.end].min()), abs=1e-5)


def test_scores_last_through_bytes_and_docbin(tiny_bert):
    nlp = trained(tiny_bert, NER)
    doc = nlp(TEXTS[1])
    scores = [ent._.score for ent in doc.ents]
    assert len(scores) == 2
    assert all(0.0 < score <= 1.0 for score in scores)
    copied = Doc(nlp.vocab).from_bytes(doc.to_bytes())
    (unpacked,) = DocBin().from_bytes(DocBin(docs=[doc]).to_bytes()).get_docs(spacy.blank("en").vocab)
    for other in (copied, unpacked):
        assert [ent._.score for ent in other.ents] == scores
        np.testing.assert_allclose(other.spans["entities"].attrs["scores"], scores)


def test_an_entity_of_another_component_has_no_score(tiny_bert):
    nlp = trained(tiny_bert, NER)
    ruler = nlp.add_pipe("entity_ruler", before="ner")
    ruler.add_patterns([{"label": "VERB", "pattern": "went"}])
    doc = nlp(TEXTS[1])
    assert _ents(doc) == [("Bob Stone", "PERSON"), ("went", "VERB"), ("Rome", "CITY")]
    assert [ent._.score is None for ent in doc.ents] == [False, True, False]


def test_entities_that_are_there_stay_and_overlapping_ones_give_way(tiny_bert):
    nlp = trained(tiny_bert, NER)
    ruler = nlp.add_pipe("entity_ruler", before="ner")
    ruler.add_patterns([{"label": "FAMILY", "pattern": "Stone"}])
    assert _ents(nlp(TEXTS[1])) == [("Stone", "FAMILY"), ("Rome", "CITY")]


def test_overwrite_replaces_entities(tiny_bert):
    nlp = _learn(_configured(tiny_bert, overwrite=True))
    ruler = nlp.add_pipe("entity_ruler", before="ner")
    ruler.add_patterns([{"label": "FAMILY", "pattern": "Stone"}])
    assert _ents(nlp(TEXTS[1])) == [("Bob Stone", "PERSON"), ("Rome", "CITY")]


def test_blocked_tokens_stay_free_of_entities(tiny_bert):
    nlp = trained(tiny_bert, NER)
    doc = nlp.make_doc(TEXTS[1])
    doc.set_ents([], blocked=[doc[6:7]], default="missing")
    doc = nlp(doc)
    assert _ents(doc) == [("Bob Stone", "PERSON")]
    assert doc[6].ent_iob_ == "B"
    assert not doc[6].ent_type_


def test_a_second_run_keeps_entities_and_their_scores(tiny_bert):
    nlp = trained(tiny_bert, NER)
    doc = nlp(TEXTS[1])
    before = [(ent.text, ent._.score) for ent in doc.ents]
    assert [(ent.text, ent._.score) for ent in nlp(doc).ents] == before


def _loss_of(nlp, eg):
    return float(loss_of(nlp.get_pipe("ner"), [eg]))


def test_missing_annotation_is_left_out_of_the_loss(tiny_bert):
    nlp = initialized(tiny_bert, NER)
    pipe = nlp.get_pipe("ner")
    doc = nlp.make_doc(TEXTS[1])
    gold = nlp.make_doc(TEXTS[1])
    gold.set_ents([Span(gold, 0, 2, "PERSON")], missing=[gold[2:6]], default="outside")
    eg = Example(doc, gold)
    logits = output_of(pipe, [doc]).logits
    tags = [1 + 2 * pipe.labels.index("PERSON"), 2 + 2 * pipe.labels.index("PERSON"), 0, 0]
    expected = torch.nn.functional.cross_entropy(logits[[0, 1, 6, 7]], torch.tensor(tags), reduction="sum")
    assert _loss_of(nlp, eg) == pytest.approx(float(expected), rel=1e-5)


def test_gold_tokens_that_differ_are_aligned(tiny_bert):
    nlp = initialized(tiny_bert, NER)
    text = "Anna-Lena lives in Berlin"
    words = ["Anna", "-", "Lena", "lives", "in", "Berlin"]
    gold = Doc(nlp.vocab, words=words, spaces=[False, False, True, True, True, False])
    gold.set_ents([Span(gold, 0, 3, "PERSON"), Span(gold, 5, 6, "CITY")], default="outside")
    predicted = Doc(
        nlp.vocab, words=["Anna-Lena", "lives", "in", "Ber", "lin"], spaces=[True, True, True, False, False]
    )
    assert predicted.text == gold.text == text
    pipe = nlp.get_pipe("ner")
    logits = output_of(pipe, [predicted]).logits
    city, person = (pipe.labels.index(label) for label in ("CITY", "PERSON"))
    tags = [1 + 2 * person, 0, 0, 1 + 2 * city, 2 + 2 * city]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(tags), reduction="sum")
    assert _loss_of(nlp, Example(predicted, gold)) == pytest.approx(float(expected), rel=1e-5)


def test_gold_entities_that_fit_no_token_are_counted_in_one_warning(tiny_bert):
    nlp = blank(tiny_bert, NER)
    gold = Doc(nlp.vocab, words=["An", "na", "lives", "in", "Berlin"], spaces=[False, True, True, True, False])
    gold.set_ents([Span(gold, 1, 2, "PERSON"), Span(gold, 4, 5, "CITY")], default="outside")
    egs = [Example(nlp.make_doc(gold.text), gold)] * 2
    with pytest.warns(UserWarning, match="2 of 4 gold entities") as caught:
        nlp.initialize(lambda: egs)
    assert len(caught) == 1
    logits = output_of(nlp.get_pipe("ner"), [egs[0].predicted]).logits
    tags = torch.tensor([0, 0, 1 + 2 * nlp.get_pipe("ner").labels.index("CITY")])
    expected = torch.nn.functional.cross_entropy(logits[1:], tags, reduction="sum")
    assert _loss_of(nlp, egs[0]) == pytest.approx(float(expected), rel=1e-5)


def test_a_label_added_to_a_trained_head_keeps_what_it_knows(tiny_bert):
    nlp = trained(tiny_bert, NER)
    pipe = nlp.get_pipe("ner")
    before = module_of(nlp, "ner").output.weight.detach().clone()
    assert pipe.add_label("PLANET") == 1
    assert pipe.add_label("PLANET") == 0
    after = module_of(nlp, "ner").output.weight
    assert pipe.labels == ("CITY", "PERSON", "PLANET")
    assert torch.equal(after[: len(before)], before)
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 3e-3
    for _ in range(40):
        nlp.update([*examples(nlp), *examples(nlp, [("Mars is red", [(0, 4, "PLANET")], "home")])], sgd=optimizer)
    assert _ents(nlp("Mars is red")) == [("Mars", "PLANET")]
    assert _ents(nlp(TEXTS[0])) == [("Anna", "PERSON"), ("Berlin", "CITY")]


def test_targets_are_the_annotated_tokens_of_a_text(tiny_bert):
    nlp = initialized(tiny_bert, NER)
    egs = examples(nlp)
    n_tokens = sum(len(eg.reference) for eg in egs)
    assert EntityTask().prepare(egs)["targets_per_doc"] == pytest.approx(n_tokens / len(egs))
    assert nlp.get_pipe("ner").cfg["targets_per_doc"] == pytest.approx(n_tokens / len(egs))


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("bio", {"B-CITY": 4, "B-PERSON": 3, "I-PERSON": 1}),
        ("biluo", {"U-CITY": 4, "U-PERSON": 2, "B-PERSON": 1, "L-PERSON": 1}),
        ("io", {"I-CITY": 4, "I-PERSON": 4}),
        ("iob1", {"I-CITY": 4, "I-PERSON": 4}),
    ],
)
def test_the_tags_of_the_training_tokens_are_counted(tiny_bert, scheme, tags):
    egs = examples(blank(tiny_bert, {}))
    found = EntityTask(scheme).prepare(egs)["counts"]
    assert found == {**tags, "O": sum(len(eg.reference) for eg in egs) - 8}


def test_iob1_has_a_b_only_right_after_an_entity_of_the_same_label(tiny_bert):
    nlp = blank(tiny_bert, {})
    reference = Doc(nlp.vocab, ["Anna", "Ray", "Bob", "Rome", "Oslo", "and", "Bonn", "Ulm"])
    spans = [(0, 2, "PER"), (2, 3, "PER"), (3, 4, "LOC"), (4, 5, "LOC"), (7, 8, "LOC")]
    reference.set_ents([Span(reference, *span) for span in spans], missing=[reference[6:7]])
    eg = Example(Doc(nlp.vocab, [token.text for token in reference]), reference)
    tags = ["I-PER", "I-PER", "B-PER", "I-LOC", "B-LOC", "O", "", "I-LOC"]
    assert list(EntityTask("iob1")._tags(eg)) == tags


def test_a_hidden_layer_comes_before_the_tags(tiny_bert):
    """In training and in prediction alike, which is computed in another way without one."""
    nlp = _configured(tiny_bert, activation="gelu", norm_eps=1e-5, hidden_bias=False, pooling="mean")
    head, doc = nlp.get_pipe("ner"), nlp.make_doc(TEXTS[0])
    module = module_of(nlp, "ner")
    assert {name for name, _ in module.named_parameters()} == {
        "dense.weight",
        "norm.weight",
        "output.weight",
        "output.bias",
    }
    features = nlp.get_pipe("encoder").predict([doc])
    vectors = torch.stack(
        [
            features.hidden[features.rows[owned]].mean(0)
            for owned in np.split(features.token_subwords, np.cumsum(features.token_subword_counts)[:-1])
        ]
    )
    hidden = torch.nn.functional.gelu(vectors @ module.dense.weight.T)
    hidden = torch.nn.functional.layer_norm(hidden, (len(hidden[0]),), module.norm.weight)
    torch.testing.assert_close(output_of(head, [doc]).logits, module.output(hidden), rtol=1e-4, atol=1e-5)
    module.train().dropout.p = 0.0
    torch.testing.assert_close(module(features), module.output(hidden), rtol=1e-4, atol=1e-5)


def test_tokens_without_annotation_are_not_counted(tiny_bert):
    nlp = blank(tiny_bert, {})
    doc = Doc(nlp.vocab, ["Anna", "met", "Bob"])
    reference = Doc(nlp.vocab, ["Anna", "met", "Bob"])
    reference.set_ents([Span(reference, 0, 1, "PERSON")], missing=[reference[1:3]], default="outside")
    assert EntityTask().prepare([Example(doc, reference)])["counts"] == {"B-PERSON": 1}


@pytest.mark.parametrize("scheme", ["bio", "biluo", "io", "iob1"])
def test_tags_start_at_their_shares(tiny_bert, scheme):
    """O is most of them: a head that starts with equal shares has to learn this first."""
    nlp = _configured(tiny_bert, scheme=scheme)
    counts = EntityTask(scheme).prepare(examples(nlp))["counts"]
    found = module_of(nlp, "ner").output.bias.detach().softmax(dim=0)
    seen = torch.tensor([counts.get(tag, 0) for tag in Tagging.of(["CITY", "PERSON"], scheme).tags])
    torch.testing.assert_close(found[seen > 0] / found[0], seen[seen > 0] / seen[0])
    # Of a tag without a token, as if it had half of one.
    torch.testing.assert_close(found[seen == 0] / found[0], torch.full(((seen == 0).sum(),), 0.5) / seen[0])


def test_tags_of_a_label_added_later_start_as_the_rarest(tiny_bert):
    nlp = initialized(tiny_bert, NER)
    before = module_of(nlp, "ner").output.bias.detach().clone()
    nlp.get_pipe("ner").add_label("PLANET")
    assert module_of(nlp, "ner").output.bias.tolist() == [*before.tolist(), *[before.min().item()] * 2]
    assert before.mean().item() == pytest.approx(0.0, abs=1e-6)  # so that theirs are like the others


@pytest.mark.parametrize("text", ["", "   ", "\x00\x01", "👩‍👩‍👧 Anna שלום Berlin é", "e\u0301\u0301 \u200bAnna\u200d"])
def test_odd_texts_go_through_with_spans_on_the_right_characters(tiny_bert, text):
    nlp = trained(tiny_bert, NER)
    doc = nlp(text)
    assert doc.text == text
    for ent in doc.ents:
        assert text[ent.start_char : ent.end_char] == ent.text
