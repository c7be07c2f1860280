"""`bertft train`: `spacy train`, after checks of the config; or both steps from annotated texts to a pipeline."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from spacy_bertft.cli.console import STOPPED, clean_errors, import_code, reading_option
from spacy_bertft.cli.init import TASKS, Aim, AimOption, Dev, EncoderName, Lang, Revision, Shots, Train, show_plan
from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.signatures import with_settings

# The options of the run itself, apart from its output and the number of its processes.
_OF_RUN = (
    "code_path", "verbose", "use_gpu", "resume", "checkpoint_minutes", "checkpoint_steps", "no_checkpoints"
)  # fmt: skip
_CONFIG = "config.cfg"  # in the output folder, if it is made here

_Config = Annotated[
    Path | None, typer.Argument(help="Training config, such as configs/ner.cfg; - reads stdin. Or --task and --train.")
]
_Task = Annotated[str | None, typer.Option(help=f"Make the config first, as `bertft init` does: {TASKS}")]
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


@with_settings(Options, reading_option(hidden=True))  # the help of `bertft convert` lists them
def train_command(
    context: typer.Context,
    config_path: _Config = None,
    output_path: _Output = None,
    code_path: _Code = None,
    verbose: _Verbose = False,
    use_gpu: _Gpu = -1,
    resume: _Resume = False,
    checkpoint_minutes: _Minutes = 5.0,
    checkpoint_steps: _Steps = None,
    no_checkpoints: _NoCheckpoints = False,
    processes: _Processes = 1,
    task: _Task = None,
    train: Train = None,
    dev: Dev = None,
    encoder: EncoderName = "bert-base-cased",
    revision: Revision = "main",
    lang: Lang = "en",
    aim: AimOption = Aim.accuracy,
    shots: Shots = False,
    **settings: Any,
) -> None:
    """Train a pipeline as `spacy train` does, with a check of the config first, and checkpoints to resume from.

    Settings of the config can be given as further options: --paths.train train.spacy --training.max_epochs 3

    With --task and --train, it needs no config: bertft train --task ner --train export.json --encoder bert-base-cased
    Files are read as `bertft convert` reads them, with its options (--text-key and others).
    """
    from spacy.cli._util import show_validation_error
    from spacy.util import logger
    from wasabi import msg

    from spacy_bertft.jobs.training.prepare import read_config

    if verbose:
        logger.setLevel(logging.DEBUG)
    if config_path is not None and str(config_path).startswith("--"):  # without a config: the first setting
        context.args.insert(0, str(config_path))
        config_path = None
    overrides = overrides_of(context.args)
    how = {"train": train, "dev": dev, "encoder": encoder, "revision": revision, "lang": lang, "shots": shots}
    how |= settings
    _check_source(context, config_path, task, [*how, "aim"])
    with clean_errors():
        import_code(code_path)
        if config_path is None:
            output_path = output_path or Path("training")
            config_path = _made(str(task), output_path, resume=resume, aim=aim.value, **how)
        with show_validation_error(config_path):
            config, warnings = read_config(config_path, overrides)
        if processes > 1:
            _run_in_processes(context, config_path, output_path, processes)
        for warning in warnings:
            msg.warn(warning)
        with show_validation_error(config_path, hint_fill=False):
            _train(
                config,
                output_path,
                gpu=use_gpu,
                resume=resume,
                minutes=None if no_checkpoints else checkpoint_minutes,
                steps=None if no_checkpoints else checkpoint_steps,
            )
    if task is not None:
        msg.good(f"Load the pipeline with spacy.load({str(Path(output_path or '') / 'model-best')!r})")


def _train(
    config: Any, output: Path | None, *, gpu: int, resume: bool, minutes: float | None, steps: int | None
) -> None:
    """Train, and exit as a command that Ctrl-C has ended if the user stops it."""
    from wasabi import msg

    from spacy_bertft.jobs.training.prepare import choose_gpu
    from spacy_bertft.jobs.training.train import Stopped, train

    gpu, about_gpu = choose_gpu(gpu)
    _prepare(output)
    msg.info(about_gpu)
    try:
        train(
            config,
            output,
            use_gpu=gpu,
            resume=resume,
            checkpoint_minutes=minutes,
            checkpoint_steps=steps,
            note=msg.info,
        )
    except Stopped:
        raise typer.Exit(STOPPED) from None


def _check_source(context: typer.Context, config: Path | None, task: str | None, of_data: list[str]) -> None:
    """Raise an error unless there is either a config or a task. of_data: options that belong to a task."""
    given = [name for name in of_data if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if config is not None and task is not None:
        raise typer.BadParameter(
            f"found --task {task} and the config {str(config)!r}; expected one of them, since --task makes a config"
        )
    if task is None and given:
        raise typer.BadParameter(
            f"found --{given[0].replace('_', '-')} without --task; expected it where the config is made from annotated "
            "texts; to change the texts of a config: --paths.train and --paths.dev"
        )
    if task is not None and "train" not in given:
        raise typer.BadParameter("found --task without --train; expected annotated texts to train on")
    if config is None and task is None:
        raise typer.BadParameter(
            "found neither a config nor --task; expected a config, or a task and annotated texts, such as --task ner "
            "--train export.json"
        )
    if config is not None and str(config) != "-" and not config.is_file():
        raise typer.BadParameter(f"found no file {str(config)!r}", param_hint="CONFIG_PATH")


def _made(task: str, output: Path, *, resume: bool, **how: Any) -> Path:
    """Write the config of a task to the output folder, unless the run that it was made for continues."""
    from wasabi import msg

    from spacy_bertft.jobs.recipes.init import init

    path = output / _CONFIG
    if path.exists():
        if resume:
            msg.info(f"The config is there: {path}")
            return path
        raise ConfigError(
            f"{path}: found the config of an earlier run; expected an output folder without one; fix: name another "
            f"--output, continue that run (--resume), or repeat it (bertft train {path} --output {output})"
        )
    plan = init(task, path, **how)
    if plan is not None:
        show_plan(plan)
    msg.good(f"Wrote {path}")
    return path


def _run_in_processes(context: typer.Context, config: Path, output: Path | None, count: int) -> None:
    """Run the same command in several processes, and exit as they do."""
    from wasabi import msg

    from spacy_bertft.jobs.training.launch import launch

    if str(config) == "-":
        raise typer.BadParameter(
            "found - (stdin); expected a file, which all processes can read", param_hint="CONFIG_PATH"
        )
    given = {name: context.params[name] for name in _OF_RUN} | {"output_path": output}
    names = {option.name: option.opts[0] for option in context.command.params}
    words = []
    for name, value in given.items():
        if value is True:
            words.append(names[name])
        elif value is not None and value is not False:
            words += [names[name], str(value)]
    code = launch(["-m", "spacy_bertft", "train", str(config), *words, *context.args], count)
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
