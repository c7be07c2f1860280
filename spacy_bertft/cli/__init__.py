"""The command line: `bertft …`, and the same as `python -m spacy bertft …`.

A command parses its options, calls one function of the library and shows the result. Nothing heavy is
imported here: each command imports what it needs when it runs, so that `--help` is quick.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from spacy_bertft import __version__
from spacy_bertft.cli.adapt import adapt_command
from spacy_bertft.cli.calibrate import calibrate_command
from spacy_bertft.cli.console import told_what_is_missing
from spacy_bertft.cli.convert import convert_command
from spacy_bertft.cli.distill import distill_command
from spacy_bertft.cli.evaluate import evaluate_command
from spacy_bertft.cli.export import export_command
from spacy_bertft.cli.fill_mask import fill_mask_command
from spacy_bertft.cli.import_checkpoint import import_command
from spacy_bertft.cli.init import init_command
from spacy_bertft.cli.migrate import migrate_command
from spacy_bertft.cli.push import push_command
from spacy_bertft.cli.report import report_command
from spacy_bertft.cli.shrink import shrink_command
from spacy_bertft.cli.train import train_command
from spacy_bertft.cli.tune import tune_command


class _App(typer.Typer):
    """An app whose commands say in one line what to install, where they need torch and only the core is installed."""

    def command(self, *arguments: Any, **settings: Any) -> Callable[[Any], Any]:
        """As Typer's."""
        register = super().command(*arguments, **settings)
        return lambda command: register(told_what_is_missing(command))


app = _App(
    name="bertft",
    help="Fine-tuned BERT encoders in spaCy pipelines: make configs, prepare data, fit thresholds, evaluate, export.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.command("init")(init_command)
app.command("convert")(convert_command)
app.command("adapt", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(adapt_command)
app.command("train", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(train_command)
app.command("calibrate")(calibrate_command)
app.command("distill", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(distill_command)
app.command("evaluate")(evaluate_command)
app.command("export")(export_command)
app.command("fill-mask")(fill_mask_command)
app.command("import")(import_command)
app.command("migrate")(migrate_command)
app.command("push")(push_command)
app.command("report")(report_command)
app.command("shrink")(shrink_command)
app.command("tune", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(tune_command)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"spacy-bertft {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Keep commands as subcommands even where there is only one."""


def main() -> None:
    """Run the command line."""
    app(prog_name="bertft")
