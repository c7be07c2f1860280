"""The losses against those of transformers' own models."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from tiny import FAMILIES, make_encoder
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForPreTraining

from spacy_bertft import compat
from spacy_bertft.encoder.masked_lm import Batch, load_masked, mask_id
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.engines import choose
from spacy_bertft.errors import ConfigError, EncoderError
from spacy_bertft.text.batches import bucket, pack, window_lengths
from spacy_bertft.types import Pieces, Windows

pytestmark = pytest.mark.touches_transformers

TEXTS = ["Anna lives in Berlin", "Nothing happened at home.", "A long meeting about trains, planes and automobiles."]
PAIRS = [("Anna lives", "in Berlin"), ("Nothing happened", "at home or in the garden"), ("a", "b")]


@pytest.fixture(scope="module")
def masked_encoder(tmp_path_factory):
    made = {}

    def make(family, head="AutoModelForMaskedLM"):
        if (family, head) not in made:
            made[family, head] = make_encoder(tmp_path_factory.mktemp("masked") / family, family, head=head)
        return made[family, head]

    return make


def load(folder, **settings):
    return load_masked(str(folder), EncoderSettings(device="cpu"), **settings)


def batch_of(model, texts, chosen, pairs=None):
    """All texts in one batch, `chosen` places of each to be guessed (special subwords counted)."""
    encoder = model.encoder
    if pairs:
        parts = [encoder.splitter.tokenize(list(pair)) for pair in pairs]
        ids = np.concatenate([part.ids for part in parts])
        firsts = np.array([part.counts[0] for part in parts])
        counts = np.array([part.counts.sum() for part in parts])
    else:
        subwords = encoder.splitter.tokenize(texts)
        ids, counts, firsts = subwords.ids, subwords.counts, None
    starts = np.cumsum(counts) - counts
    ends = starts + counts
    if pairs:
        first = Pieces(starts, starts + firsts, starts, starts + firsts)
        windows = Windows(Pieces(starts + firsts, ends, starts + firsts, ends), np.ones_like(counts), first,
                          np.ones(len(counts), dtype=bool))  # fmt: skip
    else:
        windows = Windows(Pieces(starts, ends, starts, ends), np.ones_like(counts))
    (group,) = bucket(window_lengths(windows, encoder.specials), budget=10_000, padded=False)
    packed = pack(ids, windows, group, encoder.specials)
    rows = np.flatnonzero(np.isin(packed.positions, chosen))
    return packed, rows, group


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("training", [False, True], ids=["prediction", "training"])
def test_the_loss_is_that_of_transformers(masked_encoder, family, training):
    folder = masked_encoder(family)
    model = load(folder, dropout=0.0).train(training)
    packed, rows, group = batch_of(model, TEXTS, [1, 3])
    with torch.set_grad_enabled(training):
        found = model(Batch(packed, rows, packed.ids[rows], None))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForMaskedLM.from_pretrained(folder).eval()
    total, right = 0.0, 0
    for number in group:
        inputs = tokenizer(TEXTS[number], return_tensors="pt")
        labels = torch.full_like(inputs["input_ids"], -100)
        labels[0, [1, 3]] = inputs["input_ids"][0, [1, 3]]
        with torch.no_grad():
            output = plain(**inputs, labels=labels)
        total += float(output.loss) * 2
        right += int((output.logits[0, [1, 3]].argmax(dim=1) == labels[0, [1, 3]]).sum())
    assert float(found.masked.detach()) == pytest.approx(total, rel=1e-4)
    assert float(found.next_sentence) == 0.0
    if not training:
        assert found.right == right
    else:
        found.masked.backward()
        gradient = model.encoder.model.get_input_embeddings().weight.grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


def test_gradients_are_those_of_transformers(masked_encoder):
    folder = masked_encoder("bert-uncased")
    model = load(folder, dropout=0.0).train()
    plain = AutoModelForMaskedLM.from_pretrained(folder).train()
    for module in plain.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    packed, rows, _ = batch_of(model, TEXTS, [1, 2])
    model(Batch(packed, rows, packed.ids[rows], None)).masked.backward()
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, 1:3] = inputs["input_ids"][:, 1:3]
    (plain(**inputs, labels=labels).loss * 6).backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in model.model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-4)


def test_both_losses_are_those_of_bert_for_pretraining(masked_encoder):
    folder = masked_encoder("bert-uncased", "AutoModelForPreTraining")
    model = load(folder, next_sentence=True).eval()
    is_next = np.array([1, 0, 1])
    packed, rows, group = batch_of(model, None, [1, 3], pairs=PAIRS)
    with torch.no_grad():
        found = model(Batch(packed, rows, packed.ids[rows], is_next[group]))
    tokenizer, plain = AutoTokenizer.from_pretrained(folder), BertForPreTraining.from_pretrained(folder).eval()
    total = 0.0
    for number in group:
        inputs = tokenizer(*PAIRS[number], return_tensors="pt")
        labels = torch.full_like(inputs["input_ids"], -100)
        labels[0, [1, 3]] = inputs["input_ids"][0, [1, 3]]
        label = torch.tensor([1 - is_next[number]])
        with torch.no_grad():
            output = plain(**inputs, labels=labels, next_sentence_label=label)
            masked = torch.nn.functional.cross_entropy(output.prediction_logits[0], labels[0])
        total += 2 * float(masked) + float(output.loss - masked)
    assert float(found.masked + found.next_sentence) == pytest.approx(total, rel=1e-4)


def test_what_is_saved_loads_as_a_masked_model_and_as_an_encoder(masked_encoder, tmp_path):
    from spacy_bertft.encoder.loading import load as load_encoder

    model = load(masked_encoder("bert-uncased"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01
    model.save(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    for name, value in model.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    encoder = load_encoder(str(tmp_path), EncoderSettings(device="cpu"))
    assert torch.equal(
        encoder.model.embeddings.word_embeddings.weight, model.model.bert.embeddings.word_embeddings.weight
    )


def test_next_sentences_need_a_bert(masked_encoder):
    with pytest.raises(ConfigError, match=r"next_sentence is on, but \w+ has no head for it"):
        load(masked_encoder("roberta"), next_sentence=True)


def test_a_tokenizer_without_a_mask_is_refused(masked_encoder, tmp_path):
    shutil.copytree(masked_encoder("bert-uncased"), tmp_path / "one")
    model = load(tmp_path / "one")
    files = dict(model.encoder.checkpoint.files)
    files["tokenizer_config.json"] = b'{"mask_token": "[NONE]"}'
    object.__setattr__(model.encoder.checkpoint, "files", files)
    with pytest.raises(EncoderError, match=r"no mask subword \(looked for '\[NONE\]'\)"):
        mask_id(model.encoder)


def test_an_encoder_that_is_not_there_is_a_clear_error():
    with pytest.raises(EncoderError, match=r"'nowhere/at-all' could not be loaded with a masked-LM head"):
        load_masked("nowhere/at-all", EncoderSettings(device="cpu"))


def test_gradient_checkpointing_changes_no_gradient(masked_encoder, monkeypatch):
    # No engine of our own, whose dropout differs where transformers' model needs padding.
    monkeypatch.setattr(choose, "_make_fused_training", lambda encoder, *, half: None)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = load(masked_encoder("bert-uncased")).train()
        if checkpointing:
            compat.checkpoint_activations(model.encoder.model)
        packed, rows, _ = batch_of(model, TEXTS, [1, 2])
        torch.manual_seed(0)
        model(Batch(packed, rows, packed.ids[rows], None)).masked.backward()
        gradients.append(
            {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
        )
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
