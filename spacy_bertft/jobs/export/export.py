"""`export`: a trained pipeline in, the same one for ONNX Runtime and a report out."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.util import load_config

from spacy_bertft.errors import ConfigError
from spacy_bertft.files import PIPELINE, staged_pipeline
from spacy_bertft.jobs.evaluate import Scores, check_pipeline, load_pipeline, read_examples, score, unreadable
from spacy_bertft.jobs.export import compare
from spacy_bertft.jobs.export.report import Change, DroppedError, ExportReport
from spacy_bertft.jobs.export.write import write
from spacy_bertft.jobs.writing import writing

_DEFAULT_TOLERANCE = 0.5  # points
_Note = Callable[[str], None]


def export(
    pipeline: Path,
    out: Path,
    *,
    int8: bool = False,
    dev: Path | None = None,
    tolerance: float = _DEFAULT_TOLERANCE,
    force: bool = False,
    overwrite: bool = False,
    note: _Note = lambda line: None,
) -> ExportReport:
    """Write the pipeline of the folder `pipeline` to the folder `out`, with its encoders for ONNX Runtime on a CPU.

    int8: store the weights of the encoders' matrix products and embeddings in 8 bits.
    dev: annotated texts to compare scores on: .spacy, or a file that `bertft convert` reads.
    tolerance: points that a score may drop. If one drops by more, nothing is written and DroppedError is raised.
    force: write the pipeline anyway.
    overwrite: replace a pipeline that `out` holds.
    note: called with a line about each stage, since the export can take minutes.
    """
    if not tolerance >= 0 or math.isinf(tolerance):
        raise ConfigError(
            f"The tolerance is {tolerance:g}; expected a number of points, 0 or more, such as {_DEFAULT_TOLERANCE}. To "
            "allow any drop, use --force."
        )
    names = _encoder_names(pipeline)
    with staged_pipeline(pipeline, out, overwrite=overwrite) as folder:
        report = _export(pipeline, out, folder, names, int8=int8, dev=dev, tolerance=tolerance, note=note)
        if report.dropped and not force:
            raise DroppedError(report)
        gc.collect()  # closes memory-mapped files: before that, Windows can't move their folder
    return report


def _export(
    pipeline: Path,
    out: Path,
    folder: Path,
    names: Sequence[str],
    *,
    int8: bool,
    dev: Path | None,
    tolerance: float,
    note: _Note,
) -> ExportReport:
    """Write to `folder`, which becomes `out` later, and compare."""
    before = _load(pipeline, names)
    examples = None if dev is None else read_examples(before, dev)
    docs = compare.sample(before, examples)
    note(f"writing the graph of {', '.join(names)}")
    with writing(out):
        write(before, pipeline, folder, names, int8_texts=[doc.text for doc in docs] if int8 else None)
    after = _load(folder, names)
    note("comparing hidden states")
    hidden = compare.hidden_states(before, after, names, docs)
    old, new = Scores({}, {}), Scores({}, {})
    if examples is not None:
        note(f"comparing scores on {dev}")
        old, new = score(before, examples), score(after, examples)
    note("comparing speed")
    return ExportReport(
        pipeline=pipeline,
        out=out,
        encoders=tuple(names),
        int8=int8,
        dev=dev,
        tolerance=tolerance,
        hidden=hidden,
        scores=compare.changes(old.overall, new.overall),
        label_scores=compare.changes(old.of_labels, new.of_labels),
        speed=compare.speed(before, after, docs),
        size=Change("bytes", compare.disk_size(pipeline), compare.disk_size(folder)),
    )


def _encoder_names(pipeline: Path) -> list[str]:
    """Names of the encoder components in a saved pipeline's config."""
    check_pipeline(pipeline)
    components: dict[str, dict[str, Any]] = _read_config(pipeline).get("components", {})
    encoders = {name: block for name, block in components.items() if block.get("factory") == "bertft_encoder"}
    if not encoders:
        raise ConfigError(
            f"The pipeline {str(pipeline)!r} has no bertft_encoder (found: {', '.join(components) or 'nothing'}). "
            "Expected at least one: only encoders of this package can be exported."
        )
    exported = [name for name, block in encoders.items() if block["model"].get("backend") == "onnxruntime"]
    if exported:
        raise ConfigError(
            f"The encoder {exported[0]!r} of {str(pipeline)!r} was exported already. Expected the trained "
            'pipeline, whose encoders have backend = "torch": export that one again.'
        )
    return list(encoders)


def _read_config(pipeline: Path) -> Any:
    try:
        return load_config(pipeline / PIPELINE, interpolate=True)
    except Exception as error:  # raised by configparser, confection or spaCy
        raise unreadable(pipeline, error) from error


def _load(pipeline: Path, names: Sequence[str]) -> Language:
    """Load the pipeline with its encoders on the CPU."""
    return load_pipeline(pipeline, {f"components.{name}.model.device": "cpu" for name in names})
