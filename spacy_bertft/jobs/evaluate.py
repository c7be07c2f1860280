"""Loading saved pipelines and annotated texts, and scoring pipelines on texts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from spacy_bertft.components.metric_kinds import kind_of
from spacy_bertft.errors import BertftError, ConfigError, DataError
from spacy_bertft.files import PIPELINE
from spacy_bertft.jobs.convert.corpus import examples_of
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.registry import is_data_set
from spacy_bertft.jobs.convert.tally import Tally
from spacy_bertft.jobs.text_files import check_plain
from spacy_bertft.jobs.writing import writing

_SHOWN = 25  # texts


@dataclass(frozen=True)
class Scores:
    """Scores as displayed: in points from 0 to 100, or as components/metric_kinds.py defines."""

    overall: dict[str, float]
    of_labels: dict[str, float]  # "cats_f_per_type.refund.f", …


def evaluate(pipeline: Path, data: Path, *, displacy: Path | None = None) -> Scores:
    """Score a saved pipeline on annotated texts: .spacy, or a file that `bertft convert` reads.

    displacy: folder for pages that show the annotations of the first 25 texts. `spacy evaluate` writes such pages only
        for components of spaCy's own factories.
    """
    nlp = load_pipeline(pipeline)
    examples = read_examples(nlp, data)
    scores = score(nlp, examples)
    if displacy is not None:
        _render(list(nlp.pipe(nlp.make_doc(eg.reference.text) for eg in examples[:_SHOWN])), displacy, str(pipeline))
    return scores


def _render(docs: list[Doc], folder: Path, title: str) -> None:
    from spacy.cli.evaluate import render_parses

    with warnings.catch_warnings(), writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        warnings.filterwarnings("ignore", r"\[W(005|006|117)\]")  # a text may have nothing to show
        render_parses(
            docs,
            folder,
            model_name=title,
            limit=_SHOWN,
            deps=any(doc.has_annotation("DEP") for doc in docs),
            ents=any(doc.ents for doc in docs),
            spans=any(doc.spans.get("sc") for doc in docs),
        )


def score(nlp: Language, examples: list[Example]) -> Scores:
    """Compute all scores, except the speed and values that are not numbers."""
    return shown_scores(nlp.evaluate(examples))


def shown_scores(found: Mapping[str, Any]) -> Scores:
    """The scores of spaCy's Scorer as displayed, except the speed and values that are not numbers."""
    found = {name: value for name, value in found.items() if name != "speed"}
    overall = {name: value for name, value in found.items() if not isinstance(value, Mapping)}
    of_labels = {name: value for name, value in found.items() if isinstance(value, Mapping)}
    return Scores(dict(_shown(overall)), dict(_shown(of_labels)))


def _shown(values: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _shown(value, f"{inside}{name}.")
        elif isinstance(value, int | float):
            yield f"{inside}{name}", kind_of(f"{inside}{name}").shown(value)


def load_pipeline(pipeline: Path, overrides: dict[str, Any] | None = None) -> Language:
    """Load a saved pipeline. overrides: settings to change in its config."""
    check_pipeline(pipeline)
    try:
        return spacy.load(pipeline, config=overrides or {})
    except BertftError:
        raise
    except Exception as error:  # whatever its components raise
        raise unreadable(pipeline, error) from error


def check_pipeline(pipeline: Path) -> None:
    """Raise an error if a folder holds no saved pipeline, or anything that is neither file nor folder."""
    if (pipeline / PIPELINE).exists():
        check_plain(pipeline)
    if not (pipeline / PIPELINE).is_file():
        found = sorted(path.name for path in pipeline.iterdir()) if pipeline.is_dir() else []
        what = (
            f"has no {PIPELINE}; found {', '.join(found[:8]) or 'nothing'}" if pipeline.is_dir() else "is not a folder"
        )
        raise ConfigError(
            f"The pipeline {str(pipeline)!r} {what} ({pipeline.absolute()}). Expected a pipeline that spaCy saved, "
            "such as training/model-best. Give the path of the folder with its config.cfg."
        )


def unreadable(pipeline: Path, error: Exception) -> ConfigError:
    """The error for a pipeline that can't be loaded."""
    said = " ".join(str(error).split())
    return ConfigError(
        f"The pipeline {str(pipeline)!r} could not be loaded: {said} Expected one that spacy.load() takes. If it needs "
        "your own functions, give the file that registers them with --code."
    )


def read_examples(nlp: Language, data: Path, *, tally: Tally | None = None) -> list[Example]:
    """Read the examples of a file of annotated texts (its ending tells the format), or of a folder of .spacy files.

    tally: counts what is read from a file that is not .spacy, such as entities that fit no tokens.
    """
    return list(stream_examples(nlp, data, Options(), tally=tally))


def stream_examples(nlp: Language, data: Path, options: Options, *, tally: Tally | None = None) -> Iterator[Example]:
    """Read one example after another, as `read_examples` does. options: how the file is read."""
    check_data(data, options)
    empty = data.is_dir() and not any(data.iterdir())
    examples = iter(()) if empty else examples_of(nlp, data, options, tally)
    count = 0
    while True:
        try:
            example = next(examples)
        except StopIteration:
            break
        except BertftError:
            raise
        except Exception as error:  # zlib, msgpack and spaCy raise many types
            raise DataError(
                f"The data {str(data)!r} could not be read: {error} Expected a .spacy file, as `bertft convert` writes "
                "it. Make it again."
            ) from error
        count += 1
        yield example
    if not count:
        raise DataError(f"The data {str(data)!r} hold no texts. Expected annotated texts. Correct the path.")


def check_data(data: Path, options: Options) -> None:
    """Raise a DataError if there is no such file or folder, and it is not the name of a data set."""
    if not (data.exists() or is_data_set(data, options)):
        raise DataError(
            f"The data {str(data)!r} were not found ({data.absolute()}). Expected a .spacy file, a folder of them, or "
            "a file that `bertft convert` reads. Correct the path."
        )
