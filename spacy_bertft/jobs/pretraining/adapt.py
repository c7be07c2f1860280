"""`adapt`: a config and texts in, a masked language model out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from spacy_bertft.encoder.checkpoint import CONFIG
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.checkpoints import PREFIX, delete_checkpoints, find_checkpoints
from spacy_bertft.jobs.pretraining.config import Settings
from spacy_bertft.jobs.pretraining.training_loop import Result, Run, StepReport
from spacy_bertft.jobs.processes import join_processes


def adapt(
    settings: Settings,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    note: Callable[[str], None] = lambda line: None,
    progress: Callable[[StepReport], None] = lambda done: None,
) -> Result:
    """Train a masked language model and write it to the folder `output`, in Hugging Face's format.

    resume: continue from the newest checkpoint there, if there is one.
    overwrite: replace a model or a run there.
    note: called with a line about each stage; progress: called after each step.

    Under torchrun, the processes share each batch; the steps are the same as with one process.
    """
    _check_output(output, resume=resume, overwrite=overwrite)
    if overwrite and join_processes().is_first:
        delete_checkpoints(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        return Run(settings, output, note=note).train_on(resume=resume, progress=progress)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"The output {output} could not be written: {error}. Expected a folder to write to, with room for the "
            "model and its checkpoints. Check the path, its permissions and the free space."
        ) from error


def _check_output(output: Path, *, resume: bool, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output}: found a file; expected a folder to write to; fix: name another output")
    there = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    is_run = any(name == CONFIG or name.startswith(PREFIX) for name in there)
    if is_run and not (resume or overwrite):
        raise ConfigError(
            f"{output}: found a model or an unfinished run there; expected a new folder; fix: continue with --resume, "
            "replace it with --overwrite, or name another output"
        )
    if resume and CONFIG in there and not find_checkpoints(output):
        raise ConfigError(
            f"{output}: found a finished model and no checkpoint to continue from; expected an unfinished run; fix: "
            "train again with --overwrite, or name another output"
        )
