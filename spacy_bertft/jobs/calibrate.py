"""`calibrate`: fit the temperatures and thresholds of trained heads on held-out annotated texts.

Temperatures and thresholds change no weights, so only the pipeline's config.cfg changes.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.training import Example
from spacy.util import load_config, minibatch

from spacy_bertft.components.head_pipe import HeadPipe
from spacy_bertft.components.task import Calibrated
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.files import PIPELINE, replace_file, staged_pipeline
from spacy_bertft.jobs.evaluate import Scores, load_pipeline, read_examples, score
from spacy_bertft.jobs.writing import writing


@dataclass(frozen=True)
class Fitted:
    """One setting of a component, before and after."""

    component: str
    setting: str
    before: float
    after: float


@dataclass(frozen=True)
class Calibration:
    """The fitted settings, and all scores before and after."""

    fitted: tuple[Fitted, ...]
    before: Scores
    after: Scores


def calibrate(
    pipeline: Path,
    data: Path,
    *,
    output: Path | None = None,
    component: str | None = None,
    dry_run: bool = False,
) -> Calibration:
    """Fit the heads of a saved pipeline on annotated texts, and write the fitted settings to its config.cfg.

    pipeline: a folder, such as training/model-best.
    data: .spacy, or a file that `bertft convert` reads; held-out texts, like those in production.
    output: folder for a copy of the pipeline with these settings, which replaces any pipeline there; None: change the
        pipeline itself.
    component: the only head to fit; None: all.
    dry_run: change nothing.
    """
    place = nullcontext(None) if output is None or dry_run else staged_pipeline(pipeline, output, overwrite=True)
    with place as folder:
        nlp = load_pipeline(pipeline)
        heads = _heads(nlp, component)
        examples = read_examples(nlp, data)
        before = score(nlp, examples)
        fitted = [one for name, head in heads.items() for one in _fit(nlp, name, head, examples)]
        after = score(nlp, examples)
        if not dry_run:
            with writing(output or pipeline):
                if folder is not None:
                    shutil.copytree(pipeline, folder, dirs_exist_ok=True)
                _set(fitted, (folder or pipeline) / PIPELINE)
    return Calibration(tuple(fitted), before, after)


def _set(fitted: Sequence[Fitted], path: Path) -> None:
    """Change the settings in a config.cfg."""
    config = load_config(path)
    for one in fitted:
        config["components"][one.component][one.setting] = one.after
    replace_file(path, config.to_disk)


def _heads(nlp: Language, component: str | None) -> dict[str, HeadPipe]:
    heads = {
        name: pipe
        for name, pipe in nlp.pipeline
        if isinstance(pipe, HeadPipe) and isinstance(pipe.task, Calibrated) and component in (None, name)
    }
    if not heads:
        found = ", ".join(nlp.pipe_names) or "none"
        wanted = "bertft_textcat, bertft_pair or bertft_qa, which have something to fit"
        if component is not None:
            wanted = f"one named {component!r} that is a {wanted}"
        raise ConfigError(f"Found the components {found}; expected {wanted}. Name another component or pipeline.")
    return heads


def _fit(nlp: Language, name: str, head: HeadPipe, examples: Sequence[Example]) -> list[Fitted]:
    task = head.task
    assert isinstance(task, Calibrated)
    evidence: list[Any] = []
    earlier = nlp.pipe_names[: nlp.pipe_names.index(name)]
    with nlp.select_pipes(enable=earlier):
        for batch in minibatch(examples, nlp.batch_size):  # type: ignore[no-untyped-call]
            docs = list(nlp.pipe(eg.predicted.copy() for eg in batch))
            golds = [Example(doc, eg.reference) for doc, eg in zip(docs, batch, strict=True)]
            evidence += task.evidence(head.predict(docs), golds)
    if not evidence:
        raise DataError(
            f"The data have no annotation for {name!r}. Expected annotations to fit it on. Give annotated texts, "
            "or name another component."
        )
    settings = task.fit(evidence)
    head.task = replace(head.task, **settings)  # type: ignore[type-var]
    return [Fitted(name, setting, float(getattr(task, setting)), value) for setting, value in settings.items()]
