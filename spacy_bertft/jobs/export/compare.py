"""Comparison of two pipelines: hidden states, scores and speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.components.head_pipe import HeadPipe
from spacy_bertft.components.pairs import pair_doc
from spacy_bertft.encoder.features import as_numpy
from spacy_bertft.encoder.pooling import take
from spacy_bertft.jobs.export.report import Change, Hidden
from spacy_bertft.types import Floats

# Words that hidden states and speed are measured on.
SAMPLE_WORDS = 5000
ROUNDS = 5
_BATCH = 32
# Used if there is no dev set.
OWN_TEXTS = (
    "The train to the coast was late again, so we had coffee at the station.",
    "Please send the invoice to our office in Leeds before the end of March.",
    "Yes.",
    "On Tuesday Maria Keller, who runs the bakery on Mill Street, sold 240 loaves before nine o'clock.",
    "Is there a way to change the address of an order that has already been paid for?",
    "Version 2.1 fixes the crash on start-up; the log files are now kept for 30 days.",
    "Der Zug nach Hamburg fährt heute von Gleis 7 ab, und zwar erst um Viertel nach acht.",
    "Le musée est fermé le lundi, mais le jardin reste ouvert jusqu'à la tombée de la nuit.",
    "Mañana por la mañana llegan dos cajas de naranjas al mercado de Valencia.",
    "It rained for three days. The river rose to the lower meadow, the bridge was closed, and the school bus had to go "
    "round by Northfield. On the fourth day the water went down as fast as it had come, and left a line of twigs and "
    "plastic bottles along the hedge, at the height of a child's shoulder.",
    "Never buy this lamp: it flickers, it hums, and the switch broke after a week!",
    "The committee agreed, by 9 votes to 4, to ask Dr. Osei of the University of Ghana for a second report on the "
    "wells, since the first one had left out everything that lies north of the railway.",
)


def sample(nlp: Language, examples: Sequence[Example] | None) -> list[Doc]:
    """Take Docs of the examples, or else of OWN_TEXTS, until they have SAMPLE_WORDS words.

    OWN_TEXTS become pairs if a head needs two segments.
    """
    if examples is not None:
        docs = (eg.predicted for eg in examples)
    elif any(isinstance(pipe, HeadPipe) and pipe.task.needs_segments for _, pipe in nlp.pipeline):
        docs = (pair_doc(nlp, first, second) for first, second in pairwise(OWN_TEXTS))
    else:
        docs = (nlp.make_doc(text) for text in OWN_TEXTS)
    chosen: list[Doc] = []
    words = 0
    for doc in docs:
        chosen.append(doc)
        words += len(doc)
        if words >= SAMPLE_WORDS:
            break
    return chosen


def hidden_states(before: Language, after: Language, names: Sequence[str], docs: Sequence[Doc]) -> Hidden:
    """Compare all hidden values that heads can read."""
    largest = total = size = 0.0
    n_values = 0
    for name in names:
        for start in range(0, len(docs), _BATCH):
            chosen = docs[start : start + _BATCH]
            old, new = (_rows(nlp, name, chosen) for nlp in (before, after))
            differences = np.abs(new - old)
            largest = max(largest, float(differences.max(initial=0.0)))
            total += float(differences.sum(dtype=np.float64))
            size += float(np.abs(old).sum(dtype=np.float64))
            n_values += old.size
    n_values = max(n_values, 1)
    return Hidden(largest, total / n_values, size / n_values, len(docs))


def _rows(nlp: Language, name: str, docs: Sequence[Doc]) -> Floats:
    """Hidden states of all subwords, then of each window's first special token. (S + W, D)."""
    pipe = nlp.get_pipe(name)
    assert isinstance(pipe, EncoderPipe)
    features = pipe.predict(docs)
    return as_numpy(take(features.hidden, np.append(features.rows, features.cls_rows)))


def changes(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[Change, ...]:
    """The changes of all scores that both have."""
    return tuple(Change(name, value, after[name]) for name, value in before.items() if name in after)


def speed(before: Language, after: Language, docs: Sequence[Doc]) -> Change:
    """Measure words per second of two pipelines."""
    return Change("words/s", *words_per_second((before, after), docs))


def words_per_second(pipelines: Sequence[Language], docs: Sequence[Doc]) -> list[float]:
    """Measure words per second of whole pipelines, after the tokenizer: medians over runs in turns."""
    words = sum(map(len, docs))
    repeats = -(-SAMPLE_WORDS // max(words, 1))
    times: list[list[float]] = [[] for _ in pipelines]
    for _ in range(ROUNDS):
        for nlp, of_nlp in zip(pipelines, times, strict=True):
            fresh = [doc.copy() for doc in docs for _ in range(repeats)]
            start = time.perf_counter()
            for _ in nlp.pipe(fresh):
                pass
            of_nlp.append(time.perf_counter() - start)
    return [words * repeats / statistics.median(of_nlp) for of_nlp in times]


def disk_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
