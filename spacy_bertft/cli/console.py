"""Code shared by all commands: options, printing lines and tables, and turning our errors into one message."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from spacy_bertft.errors import BertftError, ConfigError, need_torch

Pipeline = Annotated[Path, typer.Argument(help="Folder of a trained pipeline, such as training/model-best.")]
Data = Annotated[Path, typer.Argument(help="Annotated texts: .spacy, or a file that convert reads.")]
Code = Annotated[Path | None, typer.Option("--code", help="Python file that registers functions the pipeline needs.")]
READING = "How the files are read"  # the panel of options in the help of commands that do more than that
STOPPED = 130  # the exit code of a shell's command that Ctrl-C has ended


def reading_option(**appearance: Any) -> Callable[[str, Any], Any]:
    """For `with_settings`: turns a field of `Options` into an option of the command line. appearance: as Typer's."""

    def option(name: str, hint: Any) -> Any:
        kind, text = get_args(hint)
        return Annotated[kind, typer.Option(help=text, **appearance)]

    return option


@contextmanager
def clean_errors() -> Iterator[None]:
    """Show an error of this package as one message and exit with code 1; other errors are bugs and pass through."""
    try:
        yield
    except BertftError as err:
        show(f"✘ {err}", error=True)
        raise typer.Exit(1) from None


def told_what_is_missing(command: Callable[..., None]) -> Callable[..., None]:
    """A command that says in one line what to install, where it needs torch and only the core is installed."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except ModuleNotFoundError:
            with clean_errors():
                need_torch("This command")
            raise

    return run


def import_code(path: Path | None) -> None:
    """Run a Python file that registers functions, as spaCy's commands do."""
    from spacy.util import import_file

    if path is None:
        return
    if path.suffix != ".py" or not path.is_file():
        found = "a folder" if path.is_dir() else "no such file" if not path.exists() else "something else"
        raise ConfigError(
            f"{path}: found {found}; expected a file of Python code that ends in .py; fix: correct the path (--code)"
        )
    try:
        import_file("python_code", path)
    except Exception as error:  # the file may raise anything
        said = " ".join(str(error).split())
        raise ConfigError(
            f"{path}: found code that fails ({type(error).__name__}: {said}); expected code that registers functions "
            "of the pipeline; fix: correct that code"
        ) from error


def show(text: str, *, error: bool = False) -> None:
    """Print to stdout or stderr; characters that the terminal can't show are escaped."""
    encoding = getattr(sys.stderr if error else sys.stdout, "encoding", None) or "utf-8"
    typer.echo(text.encode(encoding, "backslashreplace").decode(encoding), err=error)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format rows as aligned columns: numbers to the right, everything else to the left."""
    cells = [
        list(header),
        *([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [isinstance(cell, int) for cell in rows[0]]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in cells
    )
