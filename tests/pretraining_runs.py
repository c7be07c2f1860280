"""A small corpus, and what pretraining runs leave, for several tests."""

from __future__ import annotations

import csv

import numpy as np
import torch
from safetensors.torch import load_file

WORDS = ["anna", "bob", "berlin", "rome", "lives", "went", "garden", "house", "meeting", "long", "home", "old", "and"]


class StoppedError(Exception):
    """Stops a run."""


def write_corpus(folder):
    """Sentences that can be learned: each names a person and always the same city."""
    generator = np.random.default_rng(0)
    lines = []
    for number in range(400):
        name, city = (("anna", "berlin"), ("bob", "rome"))[number % 2]
        lines.append(f"{name} lives in {city} near the old " + " ".join(generator.choice(WORDS, 6)))
        if number % 4 == 3:
            lines.append("")
    path = folder / "texts.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def weights(folder):
    return load_file(folder / "model.safetensors")


def curve(folder):
    with (folder / "curve.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
