"""`bertft train`: `spacy train`, after checks of the config."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from spacy_bertft.cli.console import clean_errors, import_code

STOPPED = 130  # the exit code of a shell's command that Ctrl-C has ended

_Config = Annotated[Path, typer.Argument(help="Training config, such as configs/ner.cfg; - reads stdin.")]
_Output = Annotated[
    Path | None, typer.Option("--output", "--output-path", "-o", help="Folder for the pipelines and training_log.csv.")
]
_Code = Annotated[
    Path | None, typer.Option("--code", "-c", help="Python file that registers functions the config needs.")
]
_Verbose = Annotated[bool, typer.Option("--verbose", "-V", "-VV", help="Show more messages.")]
_Resume = Annotated[
    bool, typer.Option("--resume", help="Continue a run that was stopped from its newest checkpoint in --output.")
]
_Minutes = Annotated[float, typer.Option(min=0, help="Minutes from one checkpoint to the next.")]
_Steps = Annotated[int | None, typer.Option(min=1, help="Also write a checkpoint after so many steps.")]
_NoCheckpoints = Annotated[bool, typer.Option("--no-checkpoints", help="Write no checkpoints.")]
_Processes = Annotated[int, typer.Option(min=1, help="Processes of this machine that share each batch.")]
_Gpu = Annotated[int, typer.Option("--gpu-id", "-g", help="GPU, counted from 0; -1: none for spaCy's own components.")]


def train_command(
    context: typer.Context,
    config_path: _Config,
    output_path: _Output = None,
    code_path: _Code = None,
    verbose: _Verbose = False,
    use_gpu: _Gpu = -1,
    resume: _Resume = False,
    checkpoint_minutes: _Minutes = 5.0,
    checkpoint_steps: _Steps = None,
    no_checkpoints: _NoCheckpoints = False,
    processes: _Processes = 1,
) -> None:
    """Train a pipeline as `spacy train` does, with a check of the config first, and checkpoints to resume from.

    Settings of the config can be given as further options: --paths.train train.spacy --training.max_epochs 3
    """
    from spacy.cli._util import show_validation_error
    from spacy.util import logger
    from wasabi import msg

    from spacy_bertft.jobs.training.prepare import choose_gpu, read_config
    from spacy_bertft.jobs.training.train import Stopped, train

    if verbose:
        logger.setLevel(logging.DEBUG)
    overrides = overrides_of(context.args)
    if str(config_path) != "-" and not config_path.is_file():
        raise typer.BadParameter(f"found no file {str(config_path)!r}", param_hint="CONFIG_PATH")
    with clean_errors():
        import_code(code_path)
        with show_validation_error(config_path):
            config, warnings = read_config(config_path, overrides)
        if processes > 1:
            _run_in_processes(context, processes)
        gpu, about_gpu = choose_gpu(use_gpu)
        for warning in warnings:
            msg.warn(warning)
        _prepare(output_path)
        msg.info(about_gpu)
        try:
            with show_validation_error(config_path, hint_fill=False):
                train(
                    config,
                    output_path,
                    use_gpu=gpu,
                    resume=resume,
                    checkpoint_minutes=None if no_checkpoints else checkpoint_minutes,
                    checkpoint_steps=None if no_checkpoints else checkpoint_steps,
                    note=msg.info,
                )
        except Stopped:
            raise typer.Exit(STOPPED) from None


def _run_in_processes(context: typer.Context, count: int) -> None:
    """Run the same command in several processes, and exit as they do."""
    from wasabi import msg

    from spacy_bertft.jobs.training.launch import launch

    given = {name: value for name, value in context.params.items() if name != "processes"}
    config = str(given.pop("config_path"))
    if config == "-":
        raise typer.BadParameter(
            "found - (stdin); expected a file, which all processes can read", param_hint="CONFIG_PATH"
        )
    names = {option.name: option.opts[0] for option in context.command.params}
    words = []
    for name, value in given.items():
        if value is True:
            words.append(names[name])
        elif value is not None and value is not False:
            words += [names[name], str(value)]
    code = launch(["-m", "spacy_bertft", "train", config, *words, *context.args], count)
    if code:
        msg.fail("A process of the run ended with an error, and the others with it; continue with --resume")
    raise typer.Exit(code)


def overrides_of(words: list[str]) -> dict[str, Any]:
    """Settings from further options, and from the variable of the environment that spaCy reads."""
    from click import NoSuchOption
    from spacy.cli._util import parse_config_overrides

    try:
        found: dict[str, Any] = parse_config_overrides(list(words))
    except NoSuchOption as error:  # typer may have its own copy of click
        raise typer.BadParameter(
            f"found {error.option_name}; expected an option of this command, or a setting of the config with its "
            "section, such as --training.max_epochs 3"
        ) from None
    return found


def _prepare(output: Path | None) -> None:
    """Make the output folder, and say so as `spacy train` does."""
    from wasabi import msg

    from spacy_bertft.jobs.writing import writing

    if output is None:
        msg.info("No output directory provided")
        return
    with writing(output):
        if not output.exists():
            output.mkdir(parents=True)
            msg.good(f"Created output directory: {output}")
    msg.info(f"Saving to output directory: {output}")
