"""`bertft tune`: search for better settings of a config."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spacy_bertft.cli.console import STOPPED, Code, clean_errors, import_code, show, table

if TYPE_CHECKING:
    from spacy_bertft.jobs.tune.curve import Evaluation
    from spacy_bertft.jobs.tune.results import Row
    from spacy_bertft.jobs.tune.search import Search

_Config = Annotated[Path, typer.Argument(help="Config to start from, as for `spacy train`.")]
_Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the search; an earlier one there goes on.")]
_Space = Annotated[
    Path | None, typer.Option("--space", help="File with ranges and choices; else common settings around the config's.")
]
_Trials = Annotated[int, typer.Option("--trials", min=1, help="Trainings in all, those of earlier runs included.")]
_Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the suggestions; trainings use the config's.")]
_PruneAfter = Annotated[
    int, typer.Option("--prune-after", min=1, help="Trainings that run to their end before bad ones are stopped early.")
]
_Model = Annotated[bool, typer.Option("--model/--no-model", help="Keep the pipeline of the best trial in best-model.")]
_Gpu = Annotated[int, typer.Option("--gpu-id", "-g", help="As in `spacy train`.")]
_SHOWN = 10  # trials in the table


def tune_command(
    context: typer.Context,
    config: _Config,
    output: _Output,
    space: _Space = None,
    trials: _Trials = 20,
    seed: _Seed = 0,
    prune_after: _PruneAfter = 5,
    model: _Model = True,
    code: Code = None,
    gpu: _Gpu = -1,
) -> None:
    """Search for settings that score better on the development set.

    Each trial is a training by `spacy train`. Settings of the config can be given as further options, as there:
    --paths.train corpus/train.spacy --paths.dev corpus/dev.spacy. The same command goes on after an interruption, and
    a second one at the same time shares the work.
    """
    from spacy.cli._util import parse_config_overrides

    from spacy_bertft.jobs.tune.search import Options, Search

    overrides = parse_config_overrides(context.args)
    options = Options(trials=trials, seed=seed, prune_after=prune_after, save=model, code=code, gpu=gpu)
    with clean_errors():
        import_code(code)
        search = Search.open(config, output, overrides=overrides, space=space, options=options)
        _show_start(search, given=space is not None)
        progress = _Progress(trials, len(search.rows()))
        try:
            with _stopped_by_signals():
                rows = search.run(progress)
        except KeyboardInterrupt:
            progress.close()
            done = len(search.rows())
            show(f"Stopped: {done} of {trials} trials are over. The same command goes on from here.", error=True)
            raise typer.Exit(STOPPED) from None
        finally:
            progress.close()
    _show_end(search, rows)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Treat a request to terminate, as of a cluster or a service, like Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_start(search: Search, *, given: bool) -> None:
    from spacy_bertft.jobs.tune.search import SPACE
    from spacy_bertft.jobs.tune.space import space_text

    there = search.folder / SPACE
    show(
        "Searching:" if given else f"Searching the default space (to change it: copy {there}, and give it as --space):"
    )
    show("\n" + "\n".join(f"    {line}".rstrip() for line in space_text(search.space).splitlines()) + "\n")
    if search.own_values is None:
        show("ℹ The config's own values are outside this space, so the first trial is not the config itself.")


class _Progress:
    """A line per trial on stdout; in a terminal, a bar on stderr that shows the running trial and the time left."""

    def __init__(self, trials: int, done: int) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]

        self.bar: Any = tqdm(total=trials, initial=min(done, trials), unit=" trials", file=sys.stderr, disable=None)
        self.trials = trials
        self.number = 0
        self.noted: set[str] = set()
        self.best: float | None = None
        self.begun, self.done = time.monotonic(), 0

    def note(self, text: str) -> None:
        """Show a line, once."""
        if text not in self.noted:
            self._line(f"ℹ {text}")
        self.noted.add(text)

    def begins(self, number: int, values: Mapping[str, Any]) -> None:
        """Show the trial in the bar."""
        self.number = number
        self._status("starting")

    def evaluated(self, evaluation: Evaluation, best: float) -> None:
        """Show its score so far in the bar."""
        part = f"step {evaluation.step}" if evaluation.position is None else f"{evaluation.position:.0%}"
        self._status(f"{part}, {best:.4f}")

    def ends(self, rows: list[Row], row: Row) -> None:
        """Show the trial's line."""
        from spacy_bertft.jobs.tune.plots import short_value
        from spacy_bertft.jobs.tune.results import best_of

        best = best_of(rows)
        self.best = None if best is None else best.score
        self.done += 1
        left = max(0, self.trials - len(rows)) * (time.monotonic() - self.begun) / self.done
        values = ", ".join(f"{name.rpartition('.')[2]} {short_value(value)}" for name, value in row.values.items())
        score = "  —   " if row.score is None else f"{row.score:.4f}"
        mark = "← best" if row is best or (best is not None and row.number == best.number) else ""
        self._line(
            f"{row.number:>5}  {score}  {row.state:6}  {clock(row.seconds):>8}  {values}  {mark}".rstrip()
            + (f"\n       {row.reason}" if row.reason else "")
            + (f"  (about {clock(left)} left)" if left else "")
        )
        self.bar.update(len(rows) - self.bar.n)

    def close(self) -> None:
        """End the bar."""
        self.bar.close()

    def _status(self, text: str) -> None:
        best = "" if self.best is None else f"; best {self.best:.4f}"
        self.bar.set_postfix_str(f"trial {self.number}: {text}{best}")

    def _line(self, text: str) -> None:
        self.bar.clear()
        show(text)
        self.bar.refresh()


def clock(seconds: float) -> str:
    """A duration: "1:05:09", or "5:09" below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _show_end(search: Search, rows: Sequence[Row]) -> None:
    from spacy_bertft.jobs.tune.plots import HISTORY, SETTINGS
    from spacy_bertft.jobs.tune.results import BEST_CONFIG, BEST_MODEL, TRIALS, best_of

    best = best_of(rows)
    if best is None or best.score is None:
        show("No trial has ended with a score yet.")
        return
    show("\n" + _trial_table(search, rows))
    states = [row.state for row in rows]
    counted = ", ".join(f"{states.count(state)} {state}" for state in ("done", "pruned", "failed") if state in states)
    folder = search.folder
    show(f"\n{len(rows)} trials ({counted}). Best dev score: {best.score:.4f}, trial {best.number}, step {best.step}.")
    start = next((row for row in rows if row.values == search.own_values), None)
    if start is not None and start.score is not None:
        show(f"The config itself (trial {start.number}): {start.score:.4f}.")
    show("The best of many dev scores is optimistic: compare on test texts that the search has not seen.")
    model = f", its pipeline: {folder / BEST_MODEL}" if (folder / BEST_MODEL).is_dir() else ""
    show(f"✔ {folder / BEST_CONFIG}{model}")
    show(f"  All trials: {folder / TRIALS}; plots: {folder / HISTORY}, {folder / SETTINGS}")


def _trial_table(search: Search, rows: Sequence[Row]) -> str:
    """The best trials, best first."""
    from spacy_bertft.jobs.tune.plots import short_names, short_value

    order = sorted(rows, key=lambda row: (row.state != "done", row.score is None, -(row.score or 0.0)))
    names = short_names(search.space)
    cells = [
        (
            row.number,
            row.state,
            "—" if row.score is None else f"{row.score:.4f}",
            f"{clock(row.seconds):>8}",
            *(short_value(row.values.get(name)) for name in names),
        )
        for row in order[:_SHOWN]
    ]
    return table(("trial", "state", "score", "    time", *names.values()), cells)
