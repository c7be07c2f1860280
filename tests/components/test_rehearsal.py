"""Rehearsal: what it pulls, where to, and what it leaves alone."""

from __future__ import annotations

import gc
import pickle
import random
import re
import weakref
from pathlib import Path

import pytest
import spacy
import torch
from pipelines import (
    ANNOTATED,
    CONTEXT,
    FACTORIES,
    HEADS,
    TEXTS,
    annotations,
    blank,
    initialized,
    module_of,
    weights,
    without_dropout,
)
from pipelines import examples as annotated_examples
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import fix_random_seed

from spacy_bertft import pair_doc, question_doc
from spacy_bertft.components.rehearsal import FrozenEncoder, Teacher
from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.shim import shim_of

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

GROWING = ["ner", "textcat", "multilabel", "pair"]
FROZEN = {"component": {"tuning": {"@misc": "spacy-bertft.FrozenTuning.v1"}}}
ROOT = Path(__file__).parents[2]


def docs_for(nlp, head):
    """Docs without annotation."""
    if head == "pair":
        return [pair_doc(nlp, text, "Who is it?") for text in TEXTS]
    if head == "qa":
        return [question_doc(nlp, question, CONTEXT) for question in ("Where?", "Who lives in Berlin?", "What is old?")]
    return [nlp.make_doc(text) for text in TEXTS]


def golds(nlp, head):
    """Examples with annotations for a head."""
    if head in HEADS:
        return annotated_examples(nlp)
    found = []
    for place, doc in enumerate(docs_for(nlp, head)):
        gold = doc.copy()
        gold.cats = {"one": float(place % 2), "two": float(place % 3 == 0 if head == "multilabel" else 1 - place % 2)}
        gold._.value = float(place)
        if head == "qa":
            gold.spans["segments"] = [gold[span.start : span.end] for span in doc.spans["segments"]]
            gold.spans["answers"] = [gold[len(gold) - 3 : len(gold) - 1]]
            gold.cats = {}
        found.append(Example(doc, gold))
    return found


def raw(nlp, head="ner"):
    return [Example(doc, doc.copy()) for doc in docs_for(nlp, head)]


def started(encoder, head, **settings):
    """An initialised pipeline with one head, without dropout, whose learning rate is set by the test."""
    nlp = blank(encoder, {head: FACTORIES[head]}, **settings)
    fix_random_seed(0)
    nlp.initialize(lambda: golds(nlp, head))
    return without_dropout(nlp)


def resumed(encoder, head, rate=1e-3, **settings):
    """The same after nlp.resume_training() and an update, so that it is no longer as its teacher."""
    nlp = started(encoder, head, **settings)
    optimizer = nlp.resume_training(sgd=optimizer_of(nlp, rate))
    nlp.update(golds(nlp, head), sgd=optimizer)
    return nlp, optimizer


def optimizer_of(nlp, rate, **settings):
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = rate
    optimizer.L2 = 0.0
    for name, value in settings.items():
        setattr(optimizer, name, value)
    return optimizer


def gradients(nlp, name):
    if name == "encoder":
        nlp.get_pipe(name).settle()
    return {key: one.grad for key, one in module_of(nlp, name).named_parameters() if one.grad is not None}


def changed(nlp, name, before):
    return any(not value.equal(before[key]) for key, value in weights(nlp, name).items())


def rehearse_by_hand(nlp, examples, names, **options):
    losses = {}
    for name in names:
        nlp.get_pipe(name).rehearse(examples, losses=losses, **options)
    return losses


# --- labels added to a trained head


@pytest.mark.parametrize("head", GROWING)
def test_old_rows_stay_bit_for_bit_when_a_label_is_added(tiny_bert, head):
    nlp, _ = resumed(tiny_bert, head)
    before = weights(nlp, head)
    assert nlp.get_pipe(head).add_label("NEW") == 1
    after = weights(nlp, head)
    n_old = len(before["output.bias"])
    assert len(after["output.bias"]) > n_old
    for key, value in before.items():
        found = after[key][:n_old] if key.startswith("output.") else after[key]
        assert found.equal(value)


@pytest.mark.parametrize(("head", "label"), [("qa", "ANSWER"), ("rating", "VALUE")])
def test_heads_of_one_label_take_no_other(tiny_bert, head, label):
    nlp = started(tiny_bert, head)
    before = weights(nlp, head)
    assert nlp.get_pipe(head).add_label(label) == 0
    with pytest.raises(ConfigError, match=f"got the labels {label}, NEW; expected only {label}"):
        nlp.get_pipe(head).add_label("NEW")
    assert nlp.get_pipe(head).labels == (label,)
    assert not changed(nlp, head, before)


# --- the gradient


@pytest.mark.parametrize("head", FACTORIES)
def test_a_pipeline_that_is_as_its_teacher_gets_no_gradient(tiny_bert, head):
    nlp = started(tiny_bert, head)
    nlp.resume_training()
    nlp.get_pipe("encoder")._frozen().copy()  # otherwise the encoder has no part in it
    losses = rehearse_by_hand(nlp, raw(nlp, head), ["encoder", head])
    assert losses[head] == pytest.approx(0.0, abs=1e-5)
    for name in ("encoder", head):
        found = gradients(nlp, name)
        assert found
        assert max(float(one.abs().max()) for one in found.values()) < 2e-5


@pytest.mark.parametrize("head", FACTORIES)
def test_rehearsal_pulls_head_and_encoder_back_to_the_teacher(tiny_bert, head):
    nlp = started(tiny_bert, head)
    optimizer = nlp.resume_training(sgd=optimizer_of(nlp, 1e-3))
    nlp.get_pipe("encoder")._frozen().copy()
    with torch.no_grad():
        for weight in (one for name in ("encoder", head) for one in module_of(nlp, name).parameters()):
            weight.add_(0.05 * torch.randn_like(weight))
    before = {name: weights(nlp, name) for name in ("encoder", head)}
    losses = [nlp.rehearse(raw(nlp, head), sgd=optimizer)[head] for _ in range(12)]
    assert all(changed(nlp, name, before[name]) for name in before)
    assert losses[-1] < 0.5 * losses[0]
    assert all(loss > 0 for loss in losses)


@pytest.mark.parametrize("added", ["before", "after"])
@pytest.mark.parametrize("head", GROWING)
def test_a_label_added_before_or_after_resume_training_gets_no_gradient(tiny_bert, head, added):
    nlp, _ = resumed(tiny_bert, head)
    n_old = len(module_of(nlp, head).output.bias)
    if added == "before":
        nlp.get_pipe(head).add_label("NEW")
    optimizer = nlp.resume_training()
    if added == "after":
        nlp.get_pipe(head).add_label("NEW")
    optimizer.learn_rate = 1e-3
    with torch.no_grad():
        for weight in module_of(nlp, head).parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    nlp.get_pipe(head).rehearse(raw(nlp, head))
    found = gradients(nlp, head)
    assert found["output.bias"][:n_old].abs().max() > 1e-4
    assert found["output.bias"][n_old:].count_nonzero() == 0
    assert found["output.weight"][n_old:].count_nonzero() == 0


def test_labels_that_were_trained_before_resume_training_are_old_ones(tiny_bert):
    nlp, optimizer = resumed(tiny_bert, "multilabel")
    head = nlp.get_pipe("multilabel")
    head.add_label("three")
    nlp.update(golds(nlp, "multilabel"), sgd=optimizer)
    nlp.resume_training()
    assert head._rehearsal_model.n_outputs == 3
    head.add_label("four")
    head.add_label("five")
    nlp.resume_training()
    assert head._rehearsal_model.n_outputs == 3


@pytest.mark.parametrize("head", ["ner", "textcat", "pair"])
def test_what_is_annotated_as_an_old_label_is_none_of_the_new(tiny_bert, head):
    nlp, _ = resumed(tiny_bert, head)
    nlp.resume_training()
    n_old = len(module_of(nlp, head).output.bias)
    nlp.get_pipe(head).add_label("NEW")
    nlp.get_pipe(head).rehearse(golds(nlp, head))
    found = gradients(nlp, head)["output.bias"]
    assert (found[n_old:] > 0).all()  # a step makes them less likely
    assert found[:n_old].sum() < 0


def test_what_is_annotated_as_a_new_label_is_left_to_updates(tiny_bert):
    nlp, _ = resumed(tiny_bert, "ner")
    nlp.resume_training()
    nlp.get_pipe("ner").add_label("NEW")
    doc = nlp.make_doc(TEXTS[0])
    new = Example.from_dict(doc, {"entities": ["U-NEW"] * len(doc)})
    plain, annotated = (rehearse_by_hand(nlp, [one], ["ner"], sgd=False) for one in (Example(doc, doc.copy()), new))
    assert plain == annotated
    assert gradients(nlp, "ner")["output.bias"][-2:].count_nonzero() == 0


def test_labels_that_are_not_exclusive_are_only_what_the_teacher_says_of_them(tiny_bert):
    nlp, _ = resumed(tiny_bert, "multilabel")
    plain, annotated = (
        rehearse_by_hand(nlp, some, ["multilabel"], sgd=False)
        for some in (raw(nlp, "multilabel"), golds(nlp, "multilabel"))
    )
    assert plain == annotated
    assert plain["multilabel"] > 0


def test_the_loss_of_the_head_makes_no_difference(tiny_bert, monkeypatch):
    """Focal loss and smoothed labels would pull away from the teacher."""
    nlp = blank(tiny_bert, {})
    loss = {"@losses": "spacy-bertft.CrossEntropy.v1", "label_smoothing": 0.2, "class_weights": "balanced"}
    nlp.add_pipe("bertft_textcat", name="textcat", config={"loss": loss})
    nlp.initialize(lambda: annotated_examples(nlp))
    nlp.resume_training()
    assert nlp.get_pipe("textcat").rehearse(raw(nlp)) == {"textcat": 0.0}
    assert not gradients(nlp, "textcat")  # nothing to learn but rounding errors
    monkeypatch.setattr(Teacher, "differs", lambda teacher, model: True)
    nlp.get_pipe("textcat").rehearse(raw(nlp))
    assert max(float(one.abs().max()) for one in gradients(nlp, "textcat").values()) < 1e-5


# --- Language.rehearse


def test_nothing_happens_before_resume_training(tiny_bert):
    nlp = initialized(tiny_bert)
    before = {name: weights(nlp, name) for name in ("encoder", *HEADS)}
    losses = nlp.rehearse(raw(nlp), sgd=optimizer_of(nlp, 1e-3))
    assert losses == dict.fromkeys(("encoder", *HEADS), 0.0)
    assert not any(changed(nlp, name, before[name]) for name in before)


def test_nlp_rehearse_as_spacy_documents_it(tiny_bert):
    nlp = initialized(tiny_bert)
    nlp.resume_training()
    losses = {}
    raw_batches = iter([TEXTS[:3], TEXTS[3:]])
    for batch in (annotated_examples(nlp)[:3], annotated_examples(nlp)[3:]):
        nlp.update(batch)
        nlp.rehearse([Example.from_dict(nlp.make_doc(text), {}) for text in next(raw_batches)], losses=losses)
    assert set(losses) == {"encoder", *HEADS}
    assert losses["encoder"] == pytest.approx(losses["ner"] + losses["textcat"])
    assert losses["ner"] > 0 < losses["textcat"]


@pytest.mark.parametrize("order", [["encoder", "ner", "textcat"], ["ner", "encoder", "textcat"]])
def test_losses_add_up_over_calls(tiny_bert, order):
    nlp = without_dropout(initialized(tiny_bert))
    optimizer = nlp.resume_training(sgd=optimizer_of(nlp, 1e-3))
    losses = nlp.update(annotated_examples(nlp), sgd=optimizer)
    before = dict(losses)
    for _ in range(2):
        texts = raw(nlp)
        for name in order:
            nlp.get_pipe(name).rehearse(texts, sgd=optimizer, losses=losses)
    gained = {name: losses[name] - before[name] for name in before}
    assert gained["encoder"] == pytest.approx(gained["ner"] + gained["textcat"])
    assert gained["encoder"] > 0


def test_an_encoder_that_is_left_out_has_no_loss(tiny_bert):
    nlp = initialized(tiny_bert)
    optimizer = nlp.resume_training(sgd=optimizer_of(nlp, 1e-3))
    losses = nlp.update(annotated_examples(nlp), sgd=optimizer)
    before = dict(losses)
    nlp.rehearse(raw(nlp), sgd=optimizer, losses=losses, exclude=["encoder"])
    assert losses["encoder"] == before["encoder"]
    assert losses["ner"] > before["ner"]


def test_texts_of_a_rehearsal_are_let_go(tiny_bert):
    nlp, optimizer = resumed(tiny_bert, "ner")
    for order in (["encoder", "ner"], ["ner"]):
        texts = raw(nlp)
        gone = weakref.ref(texts[0].predicted)
        rehearse_by_hand(nlp, texts, order, sgd=optimizer)
        nlp.get_pipe("encoder").settle()
        del texts
        gc.collect()
        assert gone() is None


def step_in_order(encoder, order, names=("encoder", *HEADS)):
    nlp = without_dropout(initialized(encoder))
    optimizer = nlp.resume_training(sgd=optimizer_of(nlp, 1e-3))
    nlp.update(annotated_examples(nlp), sgd=optimizer)
    texts = raw(nlp)
    losses = rehearse_by_hand(nlp, texts, order, sgd=optimizer)
    return {name: weights(nlp, name) for name in names}, losses


def test_the_order_of_the_components_makes_no_difference(tiny_bert):
    expected, losses = step_in_order(tiny_bert, ["encoder", "ner", "textcat"])
    assert losses["encoder"] > 0
    for order in (["ner", "encoder", "textcat"], ["textcat", "ner", "encoder"]):
        found, found_losses = step_in_order(tiny_bert, order)
        assert found_losses == pytest.approx(losses)
        for name, of_name in expected.items():
            for key, value in of_name.items():
                torch.testing.assert_close(found[name][key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("first", ["encoder", "ner"])
def test_the_same_texts_can_be_rehearsed_again(tiny_bert, first, monkeypatch):
    nlp, optimizer = resumed(tiny_bert, "ner")
    texts = raw(nlp)
    order = ["encoder", "ner"] if first == "encoder" else ["ner", "encoder"]
    monkeypatch.setattr(random, "shuffle", lambda pipes: pipes.sort(key=lambda pair: order.index(pair[0])))
    pipe = nlp.get_pipe("encoder")
    pipe.settle()
    steps = shim_of(pipe.model).n_steps
    losses = [nlp.rehearse(texts, sgd=optimizer)["ner"] for _ in range(4)]
    pipe.settle()
    assert shim_of(pipe.model).n_steps == steps + 4
    assert len(set(losses)) == 4


@pytest.mark.parametrize("left_out", ["encoder", "ner", "textcat"])
def test_excluded_components_stay_as_they_are(tiny_bert, left_out):
    for seed in range(4):  # spaCy's order is random
        nlp = without_dropout(initialized(tiny_bert))
        optimizer = nlp.resume_training(sgd=optimizer_of(nlp, 1e-3))
        nlp.update(annotated_examples(nlp), sgd=optimizer)
        before = {name: weights(nlp, name) for name in ("encoder", *HEADS)}
        random.seed(seed)
        losses = nlp.rehearse(raw(nlp), sgd=optimizer, exclude=[left_out])
        assert {name for name in before if changed(nlp, name, before[name])} == set(before) - {left_out}
        assert set(losses) == set(before) - {left_out}
        assert not gradients(nlp, left_out)


def test_settings_of_the_optimizer_that_spacy_does_not_pass_on(tiny_bert):
    """Language.rehearse gives components the learning rate and betas alone."""
    nlp, optimizer = resumed(tiny_bert, "ner")
    shim = shim_of(nlp.get_pipe("ner").model)
    seen = []
    step = shim.optimizer.step
    shim.optimizer.step = lambda settings: (seen.append(settings), step(settings))
    optimizer.learn_rate, optimizer.b1 = 5e-4, 0.8
    nlp.rehearse(raw(nlp), sgd=optimizer)
    (found,) = seen
    assert (found.learn_rate, *found.betas) == pytest.approx((5e-4, 0.8, optimizer.b2))
    assert (found.weight_decay, found.clip, found.eps) == (0.0, optimizer.grad_clip, optimizer.eps)


def test_before_the_first_update_they_are_those_of_resume_training(tiny_bert, monkeypatch):
    monkeypatch.setattr(Teacher, "differs", lambda teacher, model: True)
    nlp = started(tiny_bert, "ner")
    nlp.resume_training(sgd=optimizer_of(nlp, 1e-3, L2=0.125, grad_clip=3.0, averages={}))
    nlp.rehearse(raw(nlp))
    shim = shim_of(nlp.get_pipe("ner").model)
    assert (shim._settings.weight_decay, shim._settings.clip, shim._settings.averages) == (0.125, 3.0, True)


def test_no_texts_are_no_error(tiny_bert):
    nlp, optimizer = resumed(tiny_bert, "ner")
    nlp.rehearse([], sgd=optimizer)
    assert nlp.get_pipe("ner").rehearse([]) == {"ner": 0.0}
    assert nlp.get_pipe("encoder").rehearse([]) == {"encoder": 0.0}
    empty = Doc(nlp.vocab, words=[])
    assert nlp.rehearse([Example(empty, empty.copy())], sgd=optimizer)["ner"] == 0.0


def test_component_cfg_sets_the_dropout(tiny_bert):
    nlp, optimizer = resumed(tiny_bert, "ner")
    nlp.rehearse(raw(nlp), sgd=optimizer, component_cfg={"ner": {"drop": 0.3}})
    assert module_of(nlp, "ner").dropout.p == 0.3


# --- the encoder's copy


def test_two_heads_share_one_copy_of_the_encoder(tiny_bert):
    nlp = initialized(tiny_bert)
    nlp.resume_training()
    teachers = [nlp.get_pipe(name)._rehearsal_model for name in HEADS]
    assert teachers[0].frozen is teachers[1].frozen
    assert not teachers[0].frozen.copied
    nlp.update(annotated_examples(nlp), sgd=optimizer_of(nlp, 1e-3))
    assert teachers[0].frozen.copied


def test_the_copy_runs_once_for_all_heads_and_as_the_encoder_was(tiny_bert, monkeypatch):
    nlp = initialized(tiny_bert)
    docs = [nlp.make_doc(text) for text in TEXTS]
    expected = nlp.get_pipe("encoder").predict(docs).hidden.clone()
    optimizer = nlp.resume_training(sgd=optimizer_of(nlp, 1e-2))
    nlp.update(annotated_examples(nlp), sgd=optimizer)
    frozen = nlp.get_pipe("ner")._rehearsal_model.frozen
    runs = []
    predict = frozen.encoder.predict
    monkeypatch.setattr(frozen.encoder, "predict", lambda texts: runs.append(texts) or predict(texts))
    nlp.rehearse([Example(doc, doc.copy()) for doc in docs], sgd=optimizer)
    assert len(runs) == 1
    torch.testing.assert_close(frozen.features(docs).hidden, expected)
    assert len(runs) == 1
    assert not torch.allclose(nlp.get_pipe("encoder").predict(docs).hidden, expected, atol=1e-4)
    frozen.features(docs[:2])
    assert len(runs) == 2


def test_a_loaded_encoder_is_copied_too(tiny_bert, tmp_path):
    """The model that is built for training uses the tensors of the loaded checkpoint."""
    initialized(tiny_bert).to_disk(tmp_path / "model")
    nlp = spacy.load(tmp_path / "model")
    optimizer = nlp.resume_training(sgd=optimizer_of(nlp, 1e-2))
    nlp.update(annotated_examples(nlp), sgd=optimizer)
    before = spacy.load(tmp_path / "model").get_pipe("encoder").encoder.weights()
    after = nlp.get_pipe("encoder").encoder.weights()  # settled
    assert not all(before[key].equal(value) for key, value in after.items())
    copied = nlp.get_pipe("ner")._rehearsal_model.frozen.encoder.weights()
    assert all(before[key].equal(value) for key, value in copied.items())


def test_resume_training_again_makes_new_teachers_and_frees_the_old(tiny_bert):
    nlp, optimizer = resumed(tiny_bert, "ner")
    first = weakref.ref(nlp.get_pipe("ner")._rehearsal_model.frozen)
    assert isinstance(first(), FrozenEncoder)
    nlp.resume_training(sgd=optimizer)
    gc.collect()
    assert first() is None
    nlp.get_pipe("encoder")._frozen().copy()
    assert rehearse_by_hand(nlp, raw(nlp), ["encoder", "ner"])["ner"] == pytest.approx(0.0, abs=1e-5)


def test_a_training_state_loaded_later_does_not_change_the_teacher(tiny_bert):
    nlp, _ = resumed(tiny_bert, "ner")
    pipe = nlp.get_pipe("encoder")
    state = {key: value.clone() for key, value in pipe.training_state().items()}
    for key in state:
        if key.startswith("weights/"):
            state[key] += 0.5
    nlp.resume_training()
    expected = {key: value.clone() for key, value in pipe.encoder.weights().items()}
    pipe.load_training_state(state)
    copied = nlp.get_pipe("ner")._rehearsal_model.frozen.encoder.weights()
    assert all(expected[key].equal(value) for key, value in copied.items())


def test_a_frozen_encoder_is_not_copied_and_its_heads_are_rehearsed(tiny_bert):
    nlp, optimizer = resumed(tiny_bert, "textcat", **FROZEN)
    before = {name: weights(nlp, name) for name in ("encoder", "textcat")}
    losses = [nlp.rehearse(raw(nlp), sgd=optimizer)["textcat"] for _ in range(6)]
    assert changed(nlp, "textcat", before["textcat"])
    assert not changed(nlp, "encoder", before["encoder"])
    assert losses[-1] < losses[0]
    assert not nlp.get_pipe("textcat")._rehearsal_model.frozen.copied


@pytest.mark.parametrize("seed", range(3))
def test_an_encoder_excluded_from_all_updates_is_not_copied(tiny_bert, seed):
    nlp = initialized(tiny_bert)
    optimizer = nlp.resume_training(sgd=optimizer_of(nlp, 1e-3))
    random.seed(seed)
    before = weights(nlp, "encoder")
    nlp.update(annotated_examples(nlp), sgd=optimizer, exclude=["encoder"])
    losses = nlp.rehearse(raw(nlp), sgd=optimizer, exclude=["encoder"])
    assert losses["ner"] > 0
    assert not nlp.get_pipe("ner")._rehearsal_model.frozen.copied
    assert not changed(nlp, "encoder", before)


# --- with a teacher, a pipeline is saved and sent as without


def test_a_pipeline_is_saved_without_its_teacher(tiny_bert, tmp_path):
    nlp, _ = resumed(tiny_bert, "ner")
    plain = blank(tiny_bert, {"ner": "bertft_ner"}).from_bytes(nlp.to_bytes())
    nlp.to_disk(tmp_path / "with")
    plain.to_disk(tmp_path / "without")
    sizes = [
        {str(file.relative_to(tmp_path / name)): file.stat().st_size for file in (tmp_path / name).rglob("*.*")}
        for name in ("with", "without")
    ]
    assert sizes[0] == sizes[1]
    loaded = spacy.load(tmp_path / "with")
    assert loaded.get_pipe("ner")._rehearsal_model is None
    assert [annotations(doc) for doc in loaded.pipe(TEXTS)] == [annotations(doc) for doc in nlp.pipe(TEXTS)]


def test_components_pickle_without_their_teacher(tiny_bert):
    nlp, _ = resumed(tiny_bert, "ner")
    (_, encoder), (_, head) = pickle.loads(pickle.dumps(list(nlp.pipeline)))
    assert head._rehearsal_model is None
    assert encoder._frozen() is None
    assert head.reads.encoder is encoder


def test_worker_processes_annotate_with_a_teacher_about(tiny_bert):
    nlp, _ = resumed(tiny_bert, "ner")
    expected = [annotations(doc) for doc in nlp.pipe(TEXTS)]
    assert [annotations(doc) for doc in nlp.pipe(TEXTS, n_process=2, batch_size=2)] == expected


def test_the_code_in_the_docs_adds_a_label_without_losing_the_others(tiny_bert, tmp_path, monkeypatch):
    nlp = initialized(tiny_bert, {"ner": "bertft_ner"})
    old = [(text, [one for one in ents if one[2] == "PERSON"], cat) for text, ents, cat in ANNOTATED]
    new = [(text, [(*one[:2], "LOC") for one in ents if one[2] == "CITY"], cat) for text, ents, cat in ANNOTATED]
    for _ in range(60):
        nlp.update(annotated_examples(nlp, old), sgd=optimizer_of(nlp, 3e-3))
    (tmp_path / "training").mkdir()
    nlp.to_disk(tmp_path / "training/model-best")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/training.md").read_text(), re.DOTALL)
    code = code.replace("5e-5", "2e-3").replace("range(2)", "range(150)")
    with_it, without = (
        said_after(part, new) for part in (code, code.replace("nlp.rehearse(batch, sgd=optimizer)", "pass"))
    )
    assert with_it["PERSON"] == {"Anna", "Bob Stone", "Clara"}
    assert without["PERSON"] != {"Anna", "Bob Stone", "Clara"}
    assert with_it["LOC"] == {"Berlin", "Rome", "Paris", "Oslo"}


def said_after(code, annotated):
    """The texts of the entities of each label, after the code has trained the saved pipeline."""
    names = {"examples": lambda: annotated_examples(names["nlp"], annotated)}
    exec(code, names)
    ents = [ent for doc in names["nlp"].pipe(TEXTS) for ent in doc.ents]
    return {label: {ent.text for ent in ents if ent.label_ == label} for label in ("PERSON", "LOC")}
