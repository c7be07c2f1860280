"""`bertft migrate`: from spacy-transformers to our encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spacy_bertft.cli.console import Code, clean_errors, import_code, show

_Old = Annotated[Path, typer.Argument(help="Folder of a pipeline trained with spacy-transformers.")]
_New = Annotated[Path, typer.Argument(help="Folder to write the new pipeline to.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the pipeline that NEW holds.")]


def migrate_command(old: _Old, new: _New, overwrite: _Overwrite = False, code: Code = None) -> None:
    """Convert a trained spacy-transformers pipeline to a bertft_encoder, with the same weights and annotations."""
    from spacy_bertft.jobs.migrate import migrate

    with clean_errors():
        import_code(code)
        done = migrate(old, new, overwrite=overwrite)
    show(f"✔ {new}: the encoder {', '.join(done.encoders)}, read by {', '.join(done.readers) or 'no component'}")
    for window in done.windows:
        show(
            f"ℹ texts of more than {window} tokens were read in spans of {window}; the encoder reads them in windows "
            "of its own length, in subwords, so their annotations may change",
            error=True,
        )
