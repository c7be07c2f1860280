"""`bertft train`: `spacy train`, after checks of the config."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from spacy_bertft.cli.console import clean_errors, import_code

_Config = Annotated[Path, typer.Argument(help="Training config, such as configs/ner.cfg; - reads stdin.")]
_Output = Annotated[
    Path | None, typer.Option("--output", "--output-path", "-o", help="Folder for the pipelines and training_log.csv.")
]
_Code = Annotated[
    Path | None, typer.Option("--code", "-c", help="Python file that registers functions the config needs.")
]
_Verbose = Annotated[bool, typer.Option("--verbose", "-V", "-VV", help="Show more messages.")]
_Gpu = Annotated[int, typer.Option("--gpu-id", "-g", help="GPU, counted from 0; -1: none for spaCy's own components.")]


def train_command(
    context: typer.Context,
    config_path: _Config,
    output_path: _Output = None,
    code_path: _Code = None,
    verbose: _Verbose = False,
    use_gpu: _Gpu = -1,
) -> None:
    """Train a pipeline as `spacy train` does, but look for misspelt settings and missing files first.

    Settings of the config can be given as further options: --paths.train train.spacy --training.max_epochs 3
    """
    from spacy.cli._util import show_validation_error
    from spacy.util import logger
    from wasabi import msg

    from spacy_bertft.jobs.train import choose_gpu, read_config, train

    if verbose:
        logger.setLevel(logging.DEBUG)
    overrides = _overrides(context.args)
    if str(config_path) != "-" and not config_path.is_file():
        raise typer.BadParameter(f"found no file {str(config_path)!r}", param_hint="CONFIG_PATH")
    with clean_errors():
        import_code(code_path)
        with show_validation_error(config_path):
            config, warnings = read_config(config_path, overrides)
        gpu, about_gpu = choose_gpu(use_gpu)
        for warning in warnings:
            msg.warn(warning)
        _prepare(output_path)
        msg.info(about_gpu)
        with show_validation_error(config_path, hint_fill=False):
            train(config, output_path, gpu_id=gpu)


def _overrides(words: list[str]) -> dict[str, Any]:
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
