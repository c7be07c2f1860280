"""Distillation: what a head learns from its teachers, of which texts, and what it refuses."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import spacy
import torch
from pipelines import ANNOTATED, CONTEXT, FACTORIES, TEXTS, blank, module_of, weights, without_dropout
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import fix_random_seed, registry
from tiny import make_encoder

from spacy_bertft import pair_doc, question_doc
from spacy_bertft.components.distill_settings import DistillSettings
from spacy_bertft.encoder.features import as_torch
from spacy_bertft.errors import ConfigError

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

QUESTIONS = ("Where?", "Who lives in Berlin?", "What is old?")


def docs_for(nlp, head):
    """Docs without annotation."""
    if head == "pair":
        return [pair_doc(nlp, text, "Who is it?") for text in TEXTS]
    if head == "qa":
        return [question_doc(nlp, question, CONTEXT) for question in QUESTIONS]
    return [nlp.make_doc(text) for text in TEXTS]


def golds(nlp, head):
    """Examples with annotations for a head."""
    found = []
    for place, doc in enumerate(docs_for(nlp, head)):
        gold = doc.copy()
        if head == "ner":
            gold.set_ents([gold.char_span(start, end, label) for start, end, label in ANNOTATED[place][1]])
        elif head == "qa":
            gold.spans["answers"] = [gold[len(gold) - 3 + place : len(gold) - 2 + place]]
        elif head == "rating":
            gold._.value = 10.0 + 7 * place
        elif head == "multilabel":
            gold.cats = {"one": float(place % 2), "two": float(place % 3 == 0)}
        else:
            gold.cats = {"one": float(place % 2), "two": float(1 - place % 2)}
        found.append(Example(doc, gold))
    return found


def raw(nlp, head):
    return [Example(doc, doc.copy()) for doc in docs_for(nlp, head)]


def taught(nlp, examples, steps=60, rate=3e-3):
    """Initialise and train a pipeline."""
    fix_random_seed(0)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = rate
    losses = [nlp.update(examples, sgd=optimizer, losses={}) for _ in range(steps)]
    nlp.get_pipe("encoder").settle()
    return losses


@pytest.fixture(scope="module")
def teacher(tiny_bert, tmp_path_factory):
    """`teacher(head)`: the folder of a pipeline that knows the examples, made once."""
    made = {}

    def make(head, seed=0):
        if (head, seed) not in made:
            nlp = blank(tiny_bert, {head: FACTORIES[head]})
            torch.manual_seed(seed)
            taught(nlp, golds(nlp, head), steps=40 + 10 * seed)
            made[head, seed] = tmp_path_factory.mktemp("teacher") / head
            nlp.to_disk(made[head, seed])
        return made[head, seed]

    return make


def with_teachers(nlp, *teachers, **settings):
    block = {"@callbacks": "spacy-bertft.distill.v1", "teachers": [str(one) for one in teachers], **settings}
    nlp.config["initialize"]["before_init"] = block
    return nlp


def student(encoder, head, *teachers, **settings):
    return with_teachers(blank(encoder, {head: FACTORIES[head]}), *teachers, **settings)


def outputs(nlp, head):
    """What a head says of each text, as numbers."""
    docs = list(nlp.pipe(docs_for(nlp, head)))
    if head == "ner":
        return [[(ent.text, ent.label_) for ent in doc.ents] for doc in docs]
    if head == "qa":
        return [[span.text for span in doc.spans["answers"]] for doc in docs]
    if head == "rating":
        return [doc._.value for doc in docs]
    return [doc.cats for doc in docs]


def soft_targets(pipe, examples):
    """What a head is to learn from its teachers."""
    docs = [eg.predicted for eg in examples]
    output = pipe.predict(docs)
    output = replace(output, logits=torch.from_numpy(output.logits))
    return pipe._taught(output, pipe.task.targets(output, examples), docs)


# --- what is learned


@pytest.mark.parametrize("head", FACTORIES)
def test_a_student_learns_what_its_teacher_says_without_any_annotation(tiny_encoder, teacher, head):
    nlp = student(tiny_encoder("electra"), head, teacher(head), weight=1.0, temperature=1.0)
    losses = taught(nlp, raw(nlp, head), steps=150)
    expected, found = outputs(spacy.load(teacher(head)), head), outputs(nlp, head)
    if head in ("ner", "qa"):
        assert found == expected
        assert any(expected)
    elif head == "rating":
        assert found == pytest.approx(expected, abs=1.5)
        assert max(expected) - min(expected) > 20
    else:
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, abs=0.08)
    assert losses[-1][head] < 0.1 * losses[0][head]
    assert losses[-1][head] > -1e-3  # the divergence from the teacher


@pytest.mark.parametrize("head", FACTORIES)
def test_there_is_nothing_to_learn_for_the_teacher_itself(tiny_bert, teacher, head):
    nlp = spacy.load(teacher(head))
    registry.callbacks.get("spacy-bertft.distill.v1")([str(teacher(head))], weight=1.0)(nlp)
    nlp.get_pipe("encoder").encoder.model  # noqa: B018  # builds it
    without_dropout(nlp)
    losses = nlp.update(raw(nlp, head), sgd=False, losses={})
    gradients = [one.grad for one in module_of(nlp, head).parameters()]
    assert losses[head] == pytest.approx(0, abs=1e-4)
    assert max(float(one.abs().max()) for one in gradients if one is not None) < 1e-3


def test_of_several_teachers_the_mean_probability_is_learned(tiny_bert, teacher):
    folders = teacher("textcat"), teacher("textcat", seed=2)
    nlp = student(tiny_bert, "textcat", *folders, weight=1.0, temperature=1.0)
    nlp.initialize(lambda: raw(nlp, "textcat"))
    pipe = nlp.get_pipe("textcat")
    soft = soft_targets(pipe, raw(nlp, "textcat"))
    both = [outputs(spacy.load(folder), "textcat") for folder in folders]
    for row, one, other in zip(soft.values, *both, strict=True):
        mean = [(one[label] + other[label]) / 2 for label in pipe.labels]
        assert row.tolist() == pytest.approx(mean, abs=1e-5)


def test_the_loss_is_the_weighted_sum_of_soft_and_own(tiny_bert, teacher):
    found = {}
    for weight in (1e-9, 0.25, 1.0):
        nlp = student(tiny_bert, "textcat", teacher("textcat"), weight=weight)
        fix_random_seed(0)
        nlp.initialize(lambda nlp=nlp: golds(nlp, "textcat"))
        without_dropout(nlp)
        found[weight] = nlp.update(golds(nlp, "textcat"), sgd=False, losses={})["textcat"]
    assert found[0.25] == pytest.approx(0.75 * found[1e-9] + 0.25 * found[1.0], rel=1e-4)
    assert found[1e-9] != pytest.approx(found[1.0], rel=1e-2)


def test_a_text_without_annotation_is_learned_from_the_teacher_alone(tiny_bert, teacher):
    nlp = student(tiny_bert, "textcat", teacher("textcat"), weight=0.5, temperature=1.0)
    nlp.initialize(lambda: golds(nlp, "textcat"))
    without_dropout(nlp)
    half = nlp.update(raw(nlp, "textcat"), sgd=False, losses={})["textcat"]
    nlp.get_pipe("textcat").distillation.settings = DistillSettings(1.0, 1.0)
    assert half == pytest.approx(0.5 * nlp.update(raw(nlp, "textcat"), sgd=False, losses={})["textcat"], rel=1e-4)


def test_unannotated_texts_leave_the_scale_of_a_tags_loss_as_it_is(tiny_bert, teacher):
    """Their tokens count for the teacher's loss, but not for the head's average of annotated tokens."""
    found = []
    for others in (0, 3):
        nlp = student(tiny_bert, "ner", teacher("ner"), weight=1.0)
        fix_random_seed(0)
        nlp.initialize(lambda nlp=nlp, n=others: golds(nlp, "ner") + n * raw(nlp, "ner"))
        with torch.no_grad():
            module_of(nlp, "ner").output.bias.zero_()
        without_dropout(nlp)
        found.append(nlp.update(raw(nlp, "ner"), sgd=False, losses={})["ner"])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_numbers_are_on_the_teachers_scale_without_any_of_their_own(tiny_bert, teacher):
    nlp = student(tiny_bert, "rating", teacher("rating"))
    nlp.initialize(lambda: raw(nlp, "rating"))
    theirs = spacy.load(teacher("rating")).get_pipe("rating").cfg["statistics"]
    assert nlp.get_pipe("rating").cfg["statistics"] == theirs
    assert theirs["scale"] > 5


@pytest.mark.parametrize("family", ["bert-uncased", "roberta"])
def test_tokens_that_a_tokenizer_drops_teach_nothing(tiny_encoder, teacher, family):
    nlp = student(tiny_encoder(family), "ner", teacher("ner"), weight=1.0)
    doc = Doc(nlp.vocab, words=["Anna", "\n\n", "lives", "\u200b", "here"])
    examples = [Example(doc, doc.copy())]
    nlp.initialize(lambda: examples)
    soft = soft_targets(nlp.get_pipe("ner"), examples)
    assert soft.mask.tolist()[0::2] == [True, True, True]
    assert not soft.mask[1]
    assert soft.values.isfinite().all()
    assert torch.isfinite(torch.tensor(nlp.update(examples, sgd=False, losses={})["ner"]))


def test_labels_are_matched_by_name(tiny_bert, teacher):
    nlp = student(tiny_bert, "textcat", teacher("textcat"), weight=1.0, temperature=1.0)
    nlp.config["initialize"]["components"]["textcat"] = {"labels": ["two", "one"]}
    nlp.initialize(lambda: raw(nlp, "textcat"))
    pipe = nlp.get_pipe("textcat")
    soft = soft_targets(pipe, raw(nlp, "textcat"))
    expected = outputs(spacy.load(teacher("textcat")), "textcat")
    assert soft.values[:, 1].tolist() == pytest.approx([cats["one"] for cats in expected], abs=1e-5)


def test_heads_may_have_teachers_of_their_own_and_none(tiny_bert, teacher):
    heads = {name: FACTORIES[name] for name in ("ner", "textcat", "multilabel")}
    nlp = with_teachers(blank(tiny_bert, heads), teacher("ner"), teacher("multilabel"), weight=1.0)
    examples = raw(nlp, "ner")
    for place, eg in enumerate(examples):
        eg.reference.cats = {"one": float(place % 2), "two": float(1 - place % 2)}
    losses = taught(nlp, examples, steps=100)
    assert outputs(nlp, "ner") == outputs(spacy.load(teacher("ner")), "ner")
    assert losses[-1]["textcat"] < 0.1 * losses[0]["textcat"]
    assert nlp.get_pipe("textcat").distillation is None


# --- what is kept


def test_teachers_read_the_training_texts_once(tiny_bert, teacher, monkeypatch):
    nlp = student(tiny_bert, "ner", teacher("ner"))
    optimizer = nlp.initialize(lambda: golds(nlp, "ner"))
    (one,) = nlp.get_pipe("ner").distillation.teachers["ner"]
    read = []
    monkeypatch.setattr(one.encoder, "features", lambda docs: read.append(len(docs)))
    nlp.update(golds(nlp, "ner"), sgd=optimizer)
    assert not read


def test_texts_beyond_the_limit_are_read_again_with_the_same_result(tiny_bert, teacher, caplog):
    found = []
    for cache_mb in (0, 10):
        nlp = student(tiny_bert, "qa", teacher("qa"), cache_mb=cache_mb)
        with caplog.at_level(logging.INFO, logger="spacy"):
            fix_random_seed(0)
            optimizer = nlp.initialize(lambda nlp=nlp: golds(nlp, "qa"))
        optimizer.learn_rate = 1e-3
        for _ in range(3):
            nlp.update(golds(nlp, "qa"), sgd=optimizer)
        found.append(weights(nlp, "encoder"))
    assert "The cache of the teachers' outputs is full (0 MiB)" in caplog.text
    assert "The teachers have read 3 texts" in caplog.text
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], atol=1e-5), name


# --- what is refused


def refused(nlp, examples):
    with pytest.raises(ConfigError) as caught:
        nlp.initialize(lambda: examples)
    return str(caught.value)


def test_labels_that_the_teacher_lacks(tiny_bert, teacher):
    nlp = student(tiny_bert, "textcat", teacher("textcat"))
    examples = golds(nlp, "textcat")
    examples[0].reference.cats = {"three": 1.0}
    said = refused(nlp, examples)
    assert "Only the teacher has no others; only the student has three" in said
    assert "[initialize.components.textcat]" in said


def test_another_scheme(tiny_bert, teacher):
    nlp = blank(tiny_bert, {})
    nlp.add_pipe("bertft_ner", name="ner", config={"scheme": "biluo"})
    assert "only the student has L-CITY, L-PERSON" in refused(with_teachers(nlp, teacher("ner")), golds(nlp, "ner"))


def test_another_kind_of_head(tiny_bert, teacher):
    nlp = blank(tiny_bert, {"textcat": "bertft_textcat_multilabel"})
    said = refused(with_teachers(nlp, teacher("textcat")), golds(nlp, "textcat"))
    assert "is a bertft_textcat_multilabel, but in its teacher" in said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weight": 0.0}, "weight of spacy-bertft.distill.v1 is 0; expected more than 0 and at most 1"),
        ({"weight": 1.5}, "weight of spacy-bertft.distill.v1 is 1.5"),
        ({"temperature": 0.0}, "temperature of spacy-bertft.distill.v1 is 0"),
        ({"cache_mb": -1}, "cache_mb of spacy-bertft.distill.v1 is -1"),
    ],
)
def test_settings_out_of_range(settings, said):
    with pytest.raises(ConfigError) as caught:
        DistillSettings(**settings)
    assert said in str(caught.value)


# --- hidden rows


def hidden_loss(nlp, head):
    encoder = nlp.get_pipe("encoder")
    docs = docs_for(nlp, head)
    return encoder.hidden_rows.gradient(docs, as_torch(encoder.predict(docs)))[0]


@pytest.mark.parametrize("head", ["ner", "pair"])
@pytest.mark.parametrize("width", [32, 16])
def test_hidden_rows_are_learned_directly_or_by_a_map(tmp_path, teacher, head, width):
    encoder = make_encoder(tmp_path / "student", "bert-uncased", hidden_size=width, num_hidden_layers=1)
    nlp = student(encoder, head, teacher(head), weight=1.0, hidden=1.0)
    fix_random_seed(0)
    optimizer = nlp.initialize(lambda: raw(nlp, head))
    optimizer.learn_rate = 3e-3
    before = hidden_loss(nlp, head)
    for _ in range(60):
        nlp.update(raw(nlp, head), sgd=optimizer)
    nlp.get_pipe("encoder").settle()
    assert hidden_loss(nlp, head) < 0.5 * before
    nlp.to_disk(tmp_path / "pipeline")
    assert not any(
        "to_teacher" in name for name in spacy.load(tmp_path / "pipeline").get_pipe("encoder").encoder.weights()
    )
    assert ("to_teacher.weight" in module_of(nlp, "encoder").state_dict()) is (width == 16)


def test_there_is_no_difference_from_the_teachers_own_rows(tiny_bert, teacher):
    nlp = spacy.load(teacher("ner"))
    registry.callbacks.get("spacy-bertft.distill.v1")([str(teacher("ner"))], hidden=1.0)(nlp)
    assert hidden_loss(nlp, "ner") == pytest.approx(0, abs=1e-9)


def test_hidden_rows_need_the_same_tokenizer(tiny_encoder, teacher):
    nlp = student(tiny_encoder("roberta"), "ner", teacher("ner"), hidden=1.0)
    said = refused(nlp, raw(nlp, "ner"))
    assert "have different tokenizers (normalizer, pre_tokenizer, model, post_processor)" in said
    assert "hidden = 0" in said


def test_hidden_rows_need_the_same_windows(tiny_bert, teacher):
    nlp = with_teachers(blank(tiny_bert, {"ner": "bertft_ner"}, window=16), teacher("ner"), hidden=1.0)
    assert "have different windows" in refused(nlp, raw(nlp, "ner"))
