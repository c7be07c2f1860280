"""Teachers and student side by side: scores, size and speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spacy.language import Language

from spacy_bertft.components.metric_kinds import kind_of
from spacy_bertft.encoder.text_encoder import TextEncoder
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.evaluate import load_pipeline, score, stream_examples
from spacy_bertft.jobs.export.compare import disk_size, sample, words_per_second
from spacy_bertft.learning.shim import TorchShim


@dataclass(frozen=True, slots=True)
class Measured:
    """A pipeline.

    scores      as shown
    parameters  of encoder and heads; None if the encoder was exported
    speed       words per second, after the tokenizer
    """

    folder: Path
    scores: dict[str, float]
    parameters: int | None
    n_bytes: int
    speed: float


@dataclass(frozen=True, slots=True)
class DistillReport:
    """What came of a distillation."""

    teachers: tuple[Measured, ...]
    student: Measured
    dev: Path

    def kept(self, name: str) -> float | None:
        """The share of the best teacher's score that the student has; None if no share can be given.

        Of an error, it is the teacher's divided by the student's.
        """
        more_is_better = kind_of(name).more_is_better
        found = [one.scores[name] for one in self.teachers if name in one.scores]
        if not found or name not in self.student.scores:
            return None
        best, own = (max if more_is_better else min)(found), self.student.scores[name]
        above, below = (own, best) if more_is_better else (best, own)
        return above / below if below > 0 else None


def compare(teachers: Sequence[Path], student: Path, dev: Path, options: Options) -> DistillReport:
    """Score all pipelines on the development texts, and time them in turns."""
    folders = [*teachers, student]
    pipelines = [load_pipeline(folder) for folder in folders]
    examples = list(stream_examples(pipelines[-1], dev, options))
    speeds = words_per_second(pipelines, sample(pipelines[-1], examples))
    *of_teachers, of_student = [
        Measured(
            folder, score(nlp, list(stream_examples(nlp, dev, options))).overall, _size(nlp), disk_size(folder), speed
        )
        for folder, nlp, speed in zip(folders, pipelines, speeds, strict=True)
    ]
    return DistillReport(tuple(of_teachers), of_student, dev)


def _size(nlp: Language) -> int | None:
    models = [pipe.model for _, pipe in nlp.pipeline if hasattr(pipe, "model")]
    shims = [shim for model in models for shim in getattr(model, "shims", ()) if isinstance(shim, TorchShim)]
    exported = any(isinstance(shim.module, TextEncoder) and not shim.module.trainable for shim in shims)
    return None if exported else sum(shim.n_parameters() for shim in shims)
