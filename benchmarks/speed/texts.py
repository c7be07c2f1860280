"""The texts, and the annotated sentences that the pipelines are trained on, from the data folder."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

SPLITS = ("train", "dev", "test")
MIXED_WORDS = (20, 300)  # words of a mixed text
LONG_WORDS = 600  # words of a long text, at least
FILES = (
    *(f"ner/{name}/{split}.iob" for name in ("wikigold", "wnut17") for split in SPLITS),
    "textcat/sms_spam/train.jsonl",
    "textcat/movie_reviews/test.jsonl",
)


@dataclass(frozen=True)
class Amounts:
    """How much of each set of texts."""

    wikigold: int  # sentences of the short set
    wnut17: int  # sentences of the short set
    mixed_words: int
    long_words: int
    latency: int  # texts given one at a time


@dataclass(frozen=True)
class Sentence:
    """Tokens and their BIO2 tags."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def text(self) -> str:
        """The tokens with a space between."""
        return " ".join(self.tokens)


def check_data(folder: Path | None) -> Path:
    """The data folder; exits with a message if it is not there or not whole."""
    found = "none was named" if folder is None else f"{folder} is not a folder"
    if folder is not None and folder.is_dir():
        missing = [name for name in FILES if not (folder / name).is_file()]
        if not missing:
            return folder
        found = f"{folder} lacks {', '.join(missing)}"
    raise SystemExit(
        f"The data folder: {found}. Expected a folder with ner/wikigold, ner/wnut17 (.iob), textcat/sms_spam and "
        "textcat/movie_reviews (.jsonl), as README.md describes. Name it with --data, or in SPACY_BERTFT_DATA."
    )


def read_sentences(path: Path) -> Iterator[Sentence]:
    """The sentences of an .iob file: token TAB tag, a blank line between sentences."""
    lines = path.read_text(encoding="utf-8").split("\n")
    for filled, group in groupby(lines, key=lambda line: bool(line.strip())):
        if filled:
            tokens, tags = zip(*(line.split("\t") for line in group), strict=True)
            yield Sentence(tokens, tags)


def read_records(path: Path) -> list[dict[str, str]]:
    """The objects of a .jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def short_pool(data: Path, name: str, splits: tuple[str, ...] = SPLITS) -> list[str]:
    """The sentences of a data set as texts."""
    return [sentence.text for split in splits for sentence in read_sentences(data / "ner" / name / f"{split}.iob")]


def build(data: Path, amounts: Amounts, seed: int = 0) -> dict[str, list[str]]:
    """The texts of each set. The same data, amounts and seed give the same texts."""
    chance = random.Random(seed)
    pools = {name: short_pool(data, name, ("dev", "test")) for name in ("wikigold", "wnut17")}
    short = chance.sample(pools["wikigold"], amounts.wikigold) + chance.sample(pools["wnut17"], amounts.wnut17)
    chance.shuffle(short)
    reviews = [" ".join(record["text"].split()) for record in read_records(data / "textcat/movie_reviews/test.jsonl")]
    chance.shuffle(reviews)
    return {
        "short": short,
        "mixed": _up_to(_joined(short_pool(data, "wikigold"), chance), amounts.mixed_words),
        "long": _up_to((text for text in reviews if n_words([text]) >= LONG_WORDS), amounts.long_words),
        "latency": chance.sample(list(chain(*pools.values())), amounts.latency),
    }


def n_words(texts: list[str]) -> int:
    """Words, split at white space: the unit of all speeds."""
    return sum(len(text.split()) for text in texts)


def _joined(sentences: list[str], chance: random.Random) -> Iterator[str]:
    """Runs of neighbouring sentences. Each run is as long as a uniformly drawn number of words lets it be."""
    held: list[str] = []
    wanted = chance.randint(*MIXED_WORDS)
    for sentence in sentences:
        if held and n_words([*held, sentence]) > wanted:
            yield " ".join(held)
            held, wanted = [], chance.randint(*MIXED_WORDS)
        held.append(sentence)
    yield " ".join(held)


def _up_to(texts: Iterator[str], words: int) -> list[str]:
    """Texts until they have `words` words."""
    taken: list[str] = []
    for text in texts:
        if n_words(taken) >= words:
            break
        taken.append(text)
    return taken
