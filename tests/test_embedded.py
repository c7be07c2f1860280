"""The pretrained encoder in assets/encoder is what its card says."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import srsly
import torch
from safetensors.torch import load_file

from spacy_bertft.encoder.loading import load
from spacy_bertft.encoder.masked_lm import Batch, load_masked, mask_id
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.jobs.pretraining.config import read_settings
from spacy_bertft.types import Packed

pytestmark = pytest.mark.touches_transformers

ROOT = Path(__file__).parents[1]
ENCODER = ROOT / "assets/encoder"


def test_the_encoder_is_small_and_kept_in_half_precision():
    weights = ENCODER / "model.safetensors"
    assert weights.stat().st_size <= 24_000_000
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float16}
    encoder = load(str(ENCODER), EncoderSettings(device="cpu"))
    assert {parameter.dtype for parameter in encoder.model.parameters()} == {torch.float32}
    assert (encoder.width, encoder.model.config.num_hidden_layers, encoder.window) == (384, 5, 512)


def test_the_encoder_has_learned_to_guess_words():
    """On messages it has never read; a net with random weights is at the logarithm of the vocabulary's size, 9.9."""
    model = load_masked(str(ENCODER), EncoderSettings(device="cpu"))
    assert model.missing == ()
    lines = (ROOT / "assets/support/test.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    ids = sorted((one.ids for one in model.encoder.tokenizer.encode_batch(texts)), key=len, reverse=True)
    lengths = np.array([len(one) for one in ids])
    positions = np.concatenate([np.arange(length) for length in lengths])
    inside = (positions > 0) & (positions < np.repeat(lengths, lengths) - 1)
    rows = np.flatnonzero(inside & (np.arange(len(positions)) % 7 == 0))
    whole = np.concatenate(ids).astype(np.int64)
    masked = whole.copy()
    masked[rows] = mask_id(model.encoder)
    model.eval()
    with torch.no_grad():
        losses = model(Batch(Packed(masked, positions, lengths), rows, whole[rows], None))
    assert float(losses.masked) / len(rows) < 5.0
    assert losses.right / len(rows) > 0.2


def test_the_encoders_card_and_curve_say_how_it_was_made():
    card = (ENCODER / "README.md").read_text(encoding="utf-8")
    variables = srsly.read_yaml(ROOT / "project.yml")["vars"]
    with (ENCODER / "curve.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert f"{int(rows[-1]['step']):,} steps" in card
    assert f"{int(rows[-1]['subwords']) / 1e6:.1f} million subwords" in card
    assert f"| {float(rows[-1]['perplexity']):.1f} |" in card
    recipe = read_settings(ROOT / "configs/pretrain.cfg")
    assert recipe.training.steps == variables["pretrain_steps"]
    assert f"{recipe.training.steps:,} steps" in card
    assert f"{variables['pretrain_long_steps']:,} steps" in card
    assert variables["pretrain_subwords"] == srsly.read_json(ENCODER / "config.json")["vocab_size"]
    assert variables["pretrain_last_steps"] == int(rows[-1]["step"])
    assert recipe.teacher.name == variables["pretrain_teacher"]
    for said in (recipe.teacher.name, "Apache 2.0", "CC BY-SA"):
        assert said in card
