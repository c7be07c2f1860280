"""Evaluation on held-out windows, and its curve over a run: curve.csv."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spacy_bertft.encoder.masked_lm import Batch, MaskedModel
from spacy_bertft.files import replace_file
from spacy_bertft.jobs.pretraining.resume import RunState
from spacy_bertft.types import Ints

_CURVE = "curve.csv"
_SEED = 2**31 - 1
_AT_ONCE = 64  # windows


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of a masked language model on held-out windows."""

    held_out_loss: float  # mean cross-entropy per chosen subword, in nats, plus the next-sentence loss if any
    perplexity: float  # of the chosen subwords
    accuracy: float  # fraction of the chosen subwords that are predicted correctly


def evaluate(
    model: MaskedModel, n_windows: int, make_batches: Callable[[Ints, np.random.Generator], list[Batch]]
) -> Evaluation:
    """Evaluate on held-out windows, corrupted in the same way each time.

    make_batches: window indices and a random generator -> the corrupted windows.
    """
    model.eval()
    masked = following = 0.0
    n_targets = right = 0
    with torch.no_grad():
        for number, chosen in enumerate(np.array_split(np.arange(n_windows), -(-n_windows // _AT_ONCE))):
            for batch in make_batches(chosen, np.random.default_rng([_SEED, number])):
                losses = model(batch)
                masked += float(losses.masked)
                following += float(losses.next_sentence)
                n_targets += len(batch.targets)
                right += losses.right
    mean = masked / max(1, n_targets)
    return Evaluation(mean + following / n_windows, math.exp(min(mean, 700.0)), right / max(1, n_targets))


def curve_row(state: RunState, rate: float, evaluation: Evaluation) -> dict[str, Any]:
    """A row of the curve: progress of the run, mean losses since the last row, and an evaluation."""
    *sums, steps = state.losses
    means = dict(zip(("loss", "next_loss", "teacher_loss"), sums, strict=True))
    return {
        "step": state.step,
        "subwords": state.subwords,
        "seconds": round(state.seconds, 1),
        "learn_rate": rate,
        **{name: total / steps if steps else None for name, total in means.items()},
        **asdict(evaluation),
    }


def evaluation_in(row: Mapping[str, Any]) -> Evaluation:
    """The evaluation in a row of the curve."""
    return Evaluation(*(row[one.name] for one in fields(Evaluation)))


def write_curve(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write all rows so far."""

    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    replace_file(folder / _CURVE, write)
