"""Candidates for masks against those of transformers' own models."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from tiny import FAMILIES, LIMIT, make_encoder
from transformers import AutoModelForMaskedLM, AutoTokenizer

from spacy_bertft.encoder.fill_mask import FillMask
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.errors import EncoderError
from spacy_bertft.text.windows import cut

pytestmark = pytest.mark.touches_transformers

TEXTS = ["Anna lives in {0}", "{0} went {0} work in the {0}.", "Nothing happened at home.", "", "{0}", "a {0}{0} b"]


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """`masked(family)`: the folder of a masked language model, made once."""
    made = {}

    def make(family):
        if family not in made:
            folder = tmp_path_factory.mktemp("masked") / family
            made[family] = make_encoder(folder, family, head="AutoModelForMaskedLM")
        return made[family]

    return make


def load(folder, **settings):
    return FillMask.load(str(folder), EncoderSettings(device="cpu", **settings))


def mask_of(filler):
    return filler.model.encoder.tokenizer.id_to_token(filler.mask)


def theirs(folder, text):
    """Probabilities of all subwords for each mask of a short text (M, V)."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**inputs).logits[0].softmax(dim=1)
    return tokenizer, probabilities[inputs["input_ids"][0] == tokenizer.mask_token_id]


def assert_same(candidates, tokenizer, probabilities, top):
    values, ids = probabilities.topk(top)
    assert [one.probability for one in candidates] == pytest.approx(values.tolist(), rel=1e-3, abs=1e-6)
    texts = [tokenizer.decode([number]).strip() for number in ids.tolist()]
    if values.diff().abs().min() > 1e-5:  # else two may stand in either order
        assert [one.text for one in candidates] == texts


@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_are_those_of_transformers(masked, family):
    folder = masked(family)
    filler = load(folder)
    texts = [text.format(mask_of(filler)) for text in TEXTS]
    found = filler.fill(texts, top=4)
    assert [len(masks) for masks in found] == [1, 3, 0, 0, 1, 2]
    for text, masks in zip(texts, found, strict=True):
        if masks:
            tokenizer, probabilities = theirs(folder, text)
            for mask, row in zip(masks, probabilities, strict=True):
                assert_same(mask.candidates, tokenizer, row, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_offsets_are_those_of_the_masks(masked, family):
    filler = load(masked(family))
    mask = mask_of(filler)
    for text in (text.format(mask) for text in TEXTS):
        (masks,) = filler.fill([text])
        assert [text[one.start : one.end] for one in masks] == [mask] * text.count(mask)
        starts = [one.start for one in masks]
        assert starts == sorted(set(starts))


@pytest.mark.parametrize("family", ["roberta", "modernbert", "xlm-roberta"])
def test_a_mask_that_takes_in_the_space_before_it_starts_behind_the_space(masked, family, tmp_path):
    folder = tmp_path / "one"
    shutil.copytree(masked(family), folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (mask,) = (token for token in content["added_tokens"] if "mask" in token["content"].lower())
    mask["lstrip"] = True  # as in the published tokenizers of these families
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    filler = load(folder)
    name = mask["content"]
    text = f"Anna lives in {name}."
    (found,) = filler.fill([text])[0]
    assert (found.start, found.end) == (14, 14 + len(name))


def test_a_text_longer_than_a_window_is_filled_window_by_window(masked):
    folder = masked("bert-uncased")
    filler = load(folder)
    text = " ".join(["Anna lives in [MASK] and works at home"] * 30)
    encoder = filler.model.encoder
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
    ids = np.array(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    size = LIMIT - 2
    assert len(ids) > 3 * size
    pieces = cut(np.array([len(ids)]), size=size, overlap=encoder.overlap).pieces
    expected = []
    for start, end, first, behind in zip(pieces.starts, pieces.ends, pieces.keep_starts, pieces.keep_ends, strict=True):
        window = torch.tensor([[tokenizer.cls_token_id, *ids[start:end], tokenizer.sep_token_id]])
        with torch.no_grad():
            probabilities = model(window).logits[0, 1:-1].softmax(dim=1)
        expected += [probabilities[place - start] for place in range(first, behind) if ids[place] == filler.mask]
    (masks,) = filler.fill([text], top=3)
    assert len(masks) == len(expected) == 30
    for mask, row in zip(masks, expected, strict=True):
        assert_same(mask.candidates, tokenizer, row, 3)


def test_texts_beside_each_other_change_nothing(masked):
    filler = load(masked("bert-uncased"))
    texts = [text.format("[MASK]") for text in TEXTS] * 2
    together = filler.fill(texts)
    for text, masks in zip(texts, together, strict=True):
        (alone,) = filler.fill([text])
        assert [(one.start, one.end) for one in alone] == [(one.start, one.end) for one in masks]
        for one, other in zip(alone, masks, strict=True):
            mine, others = ([c.probability for c in filled.candidates] for filled in (one, other))
            assert mine == pytest.approx(others, rel=1e-4)


def test_texts_without_masks_are_not_encoded(masked, monkeypatch):
    filler = load(masked("bert-uncased"))
    encoder, seen = filler.model.encoder, []
    forward = type(encoder).forward
    monkeypatch.setattr(
        type(encoder), "forward", lambda self, texts: (seen.extend(texts.texts), forward(self, texts))[1]
    )
    assert filler.fill(["Nothing happened", ""]) == [[], []]
    assert filler.fill([]) == []
    assert seen == []
    assert [len(masks) for masks in filler.fill(["Anna", "a [MASK]", "Bob"])] == [0, 1, 0]
    assert seen == ["a [MASK]"]


@pytest.mark.parametrize("top", [1, 5, 10**6])
def test_top_candidates_come_with_falling_probabilities(masked, top):
    filler = load(masked("roberta"))
    (mask,) = filler.fill(["Anna lives in <mask>."], top=top)[0]
    size = len(filler.model.encoder.tokenizer.get_vocab())
    assert len(mask.candidates) == min(top, size)
    values = [one.probability for one in mask.candidates]
    assert values == sorted(values, reverse=True)
    assert all(0 <= value <= 1 for value in values)
    assert sum(values) <= 1 + 1e-5
    if top >= size:
        assert sum(values) == pytest.approx(1, abs=1e-4)


def test_filling_leaves_no_gradients_and_takes_no_dropout(masked):
    filler = load(masked("bert-uncased"))
    assert not filler.model.training
    assert filler.fill(["a [MASK]"]) == filler.fill(["a [MASK]"])
    assert all(parameter.grad is None for parameter in filler.model.parameters())


def test_a_model_that_is_not_there_is_a_clear_error():
    with pytest.raises(EncoderError, match=r"'nowhere/at-all' could not be loaded with a masked-LM head"):
        FillMask.load("nowhere/at-all")


def test_a_model_without_a_trained_head_is_refused(tiny_bert):
    with pytest.raises(EncoderError, match=r"has no trained head for masked words \(it lacks cls\.predictions"):
        FillMask.load(str(tiny_bert))
