"""Which files a conversion reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.convert.format import Format
from spacy_bertft.jobs.convert.formats.datasets import split_of
from spacy_bertft.jobs.convert.held_out import DEV, TRAIN
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.registry import format_of
from spacy_bertft.jobs.text_files import check_input

_DOC_BIN = ".spacy"


@dataclass(frozen=True)
class Job:
    """One input, or one part of it, and its output. format: of the input, None for spaCy's own (.spacy)."""

    source: Path
    target: Path
    format: Format | None


def plan(inputs: Sequence[Path], output: Path, options: Options, writer: Format | None) -> list[Job]:
    """The jobs for all inputs. writer: the format to write, None for .spacy files."""
    _check_any(inputs)
    parts = [part for source in inputs for part in _parts(source, options, to_spacy=writer is None)]
    ending = _DOC_BIN if writer is None else writer.ending
    jobs: dict[Path, Job] = {}
    for source, format in parts:
        target = _target(source, len(parts), output, ending)
        if target in jobs:
            raise ConfigError(
                f"{source}: found a second input for {target}, after {jobs[target].source}; "
                "expected inputs with different names; fix: rename one, or convert them to different folders"
            )
        if writer is not None and target.exists():
            raise ConfigError(
                f"{target}: found something there; expected a free path, since annotations may be there; fix: name "
                "another output"
            )
        jobs[target] = Job(source, target, format)
    return list(jobs.values())


def plan_together(inputs: Sequence[Path], folder: Path, options: Options) -> list[Job]:
    """The jobs for all inputs, whose texts are put together: the target of each is the folder of both parts."""
    _check_any(inputs)
    if folder.suffix == _DOC_BIN or (folder.exists() and not folder.is_dir()):
        raise ConfigError(
            f"{folder}: found the name of a file; expected a folder, which gets {TRAIN} and {DEV}; fix: name a folder"
        )
    jobs = []
    for source in inputs:
        if source.resolve() in (folder.resolve() / TRAIN, folder.resolve() / DEV):
            raise ConfigError(f"{source}: found an input that would be replaced; fix: name another output")
        parts = _parts(source, options, to_spacy=False)
        if len(parts) > 1:
            raise ConfigError(
                f"{source}: found {', '.join(str(part) for part, _ in parts)}; expected one set of texts to divide; "
                f"fix: name one of them, such as {parts[0][0]}; another may hold the development texts (--dev)"
            )
        jobs += [Job(part, folder, format) for part, format in parts]
    return jobs


def _check_any(inputs: Sequence[Path]) -> None:
    if not inputs:
        raise ConfigError("inputs: found none; expected one file or more; fix: name the files to convert")


def _parts(source: Path, options: Options, *, to_spacy: bool) -> list[tuple[Path, Format | None]]:
    """Each part of an input with its format. to_spacy: whether .spacy files are written as they would be read."""
    if source.suffix == _DOC_BIN and options.format == "auto":
        check_input(source)
        if to_spacy:
            raise ConfigError(
                f"{source}: found a .spacy file; expected a file to convert to this format; fix: train on it as it "
                "is, or name another format to write (--to)"
            )
        return [(source, None)]
    format = format_of(source, options)
    return [(part, format) for part in format.parts(source, options)]


def _target(source: Path, n_inputs: int, output: Path, ending: str) -> Path:
    single = ending != "" and output.suffix == ending and not output.is_dir()
    if single and n_inputs > 1:
        raise ConfigError(
            f"{output}: found one output file for {n_inputs} inputs; expected a folder; "
            f"fix: name a folder, which gets one {ending} file for each input"
        )
    if not single and output.exists() and not output.is_dir():
        raise ConfigError(
            f"{output}: found a file; expected a folder, or a path that ends in {ending or 'no ending'}; fix: name "
            "another output"
        )
    target = output if single else output / f"{split_of(source)[1] or source.stem}{ending}"
    if target.is_dir() and ending:
        raise ConfigError(
            f"{target}: found a folder; expected to write a file there; fix: remove it or name another output"
        )
    if target.resolve() == source.resolve():
        raise ConfigError(f"{target}: found the input itself; expected another file; fix: name another output")
    return target
