"""Make a tiny BERT encoder with random weights, for machines without a network.

    python scripts/make_encoder.py assets/support/train.jsonl --output corpus/encoder

Its vocabulary is learned from the texts of the given files; its weights have learned nothing. The same files and the
same seed give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from spacy_bertft.cli.console import clean_errors, show
from spacy_bertft.errors import DataError
from spacy_bertft.pretraining.scratch import learn_vocabulary, tokenizer_files

POSITIONS = 512


def read_texts(path: Path, text_key: str) -> Iterator[str]:
    """The texts of a JSONL file, or the lines of any other."""
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        if path.suffix != ".jsonl":
            yield line
            continue
        try:
            yield str(json.loads(line)[text_key])
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{path}:{number}: found {line[:60]!r}; expected a JSON object with {text_key!r}; "
                "fix: correct the line, or name the key with --text-key"
            ) from None


def save_model(vocabulary_size: int, seed: int, folder: Path) -> None:
    """Write a BERT of two layers with random weights."""
    import torch
    from transformers import BertConfig, BertModel

    from spacy_bertft.compat import quiet_transformers

    config = BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=POSITIONS,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = BertModel(config)
    with quiet_transformers():
        model.save_pretrained(folder)


def make_encoder(
    files: Sequence[Path], output: Path, *, vocabulary: int = 3000, seed: int = 0, text_key: str = "text"
) -> int:
    """Write the encoder folder. Returns the size of its vocabulary."""
    texts = [text for path in files for text in read_texts(path, text_key)]
    if not texts:
        raise DataError(f"found no texts in {', '.join(map(str, files))}; expected one a line; fix: name other files")
    subwords = learn_vocabulary(texts, vocabulary)
    output.mkdir(parents=True, exist_ok=True)
    for name, content in tokenizer_files(subwords, lowercase=True, positions=POSITIONS).items():
        (output / name).write_bytes(content)
    save_model(len(subwords), seed, output)
    return len(subwords)


def main(
    files: Annotated[list[Path], typer.Argument(help="JSONL or text files.", exists=True, dir_okay=False)],
    output: Annotated[Path, typer.Option(help="Folder to write the encoder to.")],
    vocabulary: Annotated[int, typer.Option(help="Subwords to learn, at most.", min=100)] = 3000,
    seed: Annotated[int, typer.Option(help="Seed of the random weights.")] = 0,
    text_key: Annotated[str, typer.Option(help="JSON key that holds the text.")] = "text",
) -> None:
    """Make a tiny BERT encoder: 2 layers of width 128, random weights, a vocabulary learned from the files."""
    with clean_errors():
        size = make_encoder(files, output, vocabulary=vocabulary, seed=seed, text_key=text_key)
    show(f"{output}: a BERT of 2 layers, width 128, {size:,} subwords, random weights (seed {seed})")


if __name__ == "__main__":
    typer.run(main)
