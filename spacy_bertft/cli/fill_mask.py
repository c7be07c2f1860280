"""`bertft fill-mask`: candidates for the masks of a text."""

from __future__ import annotations

from typing import Annotated

import typer

from spacy_bertft.cli.console import clean_errors, show, table

_Model = Annotated[str, typer.Argument(help="Masked language model: hub name, folder, or package/folder.")]
_Text = Annotated[str, typer.Argument(help='A text with one mask or more, such as "Paris is the [MASK] of France."')]
_Top = Annotated[int, typer.Option("--top", help="Candidates for each mask.", min=1)]


def fill_mask_command(model: _Model, text: _Text, top: _Top = 5) -> None:
    """Show candidates for each [MASK] of a text, with their probabilities."""
    from spacy_bertft.encoder.fill_mask import FillMask
    from spacy_bertft.errors import DataError
    from spacy_bertft.jobs.text_files import check_model

    with clean_errors():
        check_model(model)
        fill_mask = FillMask.load(model)
        (masks,) = fill_mask.fill([text], top=top)
        if not masks:
            name = fill_mask.model.encoder.tokenizer.id_to_token(fill_mask.mask)
            raise DataError(
                f"found no {name} in {text!r}; expected one or more; fix: write {name} where a word is missing"
            )
    for number, mask in enumerate(masks):
        rows = [(one.text, f"{100 * one.probability:5.1f} %") for one in mask.candidates]
        show(("\n" if number else "") + table((f"mask {number + 1}", "probability"), rows))
