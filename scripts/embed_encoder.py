"""Copy an encoder that `bertft adapt` trained, with half-precision weights to be small enough for a repository.

    python scripts/embed_encoder.py training/pretrained --output assets/encoder

Once loaded, the weights are float32 again, as config.json says.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from spacy_bertft.cli.console import clean_errors, show
from spacy_bertft.errors import DataError
from spacy_bertft.files import replace_file

WEIGHTS = "model.safetensors"
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "curve.csv")


def embed(source: Path, output: Path) -> float:
    """Copy the encoder. Returns the largest difference between a weight and its half-precision value."""
    import torch
    from safetensors.torch import load_file, save_file

    missing = [name for name in (*FILES, WEIGHTS) if not (source / name).is_file()]
    if missing:
        raise DataError(
            f"{source}: found no {', '.join(missing)}; expected what `bertft adapt` writes; fix: give its output folder"
        )
    weights = load_file(source / WEIGHTS)
    halves = {name: weight.half() for name, weight in weights.items()}
    endless = [name for name, half in halves.items() if not torch.isfinite(half).all()]
    if endless:
        raise DataError(
            f"{source}: found weights too large for half precision in {', '.join(endless)}; expected at most 65,504; "
            "fix: train again with a lower learning rate"
        )
    output.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(source / name, output / name)
    replace_file(output / WEIGHTS, lambda part: save_file(halves, part, metadata={"format": "pt"}))
    return max(float((weights[name] - half.float()).abs().max()) for name, half in halves.items())


def main(
    source: Annotated[Path, typer.Argument(help="Output folder of `bertft adapt`.")],
    output: Annotated[Path, typer.Option(help="Folder to write to; other files there stay.")],
) -> None:
    """Copy a trained encoder with its weights in half precision."""
    with clean_errors():
        difference = embed(source, output)
    size = (output / WEIGHTS).stat().st_size / 1e6
    show(f"{output}: weights of {size:.1f} MB in half precision, off by at most {difference:.1g}")


if __name__ == "__main__":
    typer.run(main)
