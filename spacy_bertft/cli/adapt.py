"""`bertft adapt`: train a masked language model on raw texts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spacy_bertft.cli.console import clean_errors, show, table

if TYPE_CHECKING:
    from spacy_bertft.jobs.pretraining.training_loop import Result, StepReport

_Config = Annotated[Path, typer.Argument(help="Config file, such as configs/adapt.cfg.")]
_Output = Annotated[Path, typer.Option("--output", help="Folder for the encoder, the curve and the checkpoints.")]
_Resume = Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint in the output folder.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the encoder or the run in the output folder.")]


def adapt_command(
    context: typer.Context, config: _Config, output: _Output, resume: _Resume = False, overwrite: _Overwrite = False
) -> None:
    """Continue the masked-word training of an encoder on the texts of a domain, or pretrain one from scratch.

    Settings of the config can be given as further options: --training.steps 2000 --encoder.name roberta-base
    """
    overrides = _overrides(context.args)
    from spacy_bertft.jobs.pretraining.adapt import adapt
    from spacy_bertft.jobs.pretraining.config import read_settings

    first = os.environ.get("RANK", "0") == "0"  # under torchrun only the first process prints
    with clean_errors():
        settings = read_settings(config, overrides)
        bar = _Bar(settings.training.steps, shown=first)
        try:
            result = adapt(
                settings,
                output,
                resume=resume,
                overwrite=overwrite,
                note=lambda line: show(f"ℹ {line}", error=True) if first else None,
                progress=bar,
            )
        finally:
            bar.close()
    if first:
        _show(result)


def _overrides(words: Sequence[str]) -> dict[str, Any]:
    """Settings from `--section.name value` and `--section.name=value`; values are JSON, or else strings."""
    found: dict[str, Any] = {}
    rest = list(words)
    while rest:
        option, given, value = rest.pop(0).partition("=")
        if not option.startswith("--") or "." not in option:
            raise typer.BadParameter(
                f"found {option!r}; expected a setting of the config with its section, such as --training.steps 2000"
            )
        if not given:
            if not rest or rest[0].startswith("--"):
                raise typer.BadParameter(f"found no value for {option}; expected one after it")
            value = rest.pop(0)
        try:
            found[option.removeprefix("--")] = json.loads(value)
        except ValueError:
            found[option.removeprefix("--")] = value
    return found


class _Bar:
    """Progress bar on stderr: steps, subwords per second and the time left."""

    def __init__(self, steps: int, *, shown: bool) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]

        self.bar: Any = tqdm(total=steps, unit=" steps", file=sys.stderr, disable=None if shown else True)
        self.subwords = 0

    def __call__(self, done: StepReport) -> None:
        if self.bar.n == 0:
            self.bar.initial = self.bar.n = done.step - 1
        self.subwords += done.subwords
        self.bar.update(1)
        seconds = self.bar.format_dict["elapsed"]
        self.bar.set_postfix_str(f"{self.subwords / max(seconds, 1e-9):,.0f} subwords/s, loss {done.loss:.3f}")

    def close(self) -> None:
        """End the line."""
        self.bar.close()


def _show(result: Result) -> None:
    rows = [
        ("loss", result.before.held_out_loss, result.after.held_out_loss),
        ("perplexity", result.before.perplexity, result.after.perplexity),
        ("accuracy, %", 100 * result.before.accuracy, 100 * result.after.accuracy),
    ]
    header = ("held-out texts", "   before", "    after")
    show(table(header, [(name, f"{before:9.3f}", f"{after:9.3f}") for name, before, after in rows]))
    state = result.state
    show(
        f"✔ {result.folder}: {state.step:,} steps, {state.subwords:,} subwords, {state.seconds:,.0f} s; "
        f"the curve is in {result.folder / 'curve.csv'}"
    )
