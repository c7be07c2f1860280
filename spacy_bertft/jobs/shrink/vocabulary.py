"""The vocabulary of a tokenizer.json: which subwords depend on each other, and the file with fewer of them.

A text splits as before if the vocabulary keeps all of its subwords, whichever others are dropped:

- WordPiece takes the longest subword that matches. It is kept, and the shorter ones are not asked for.
- BPE applies the merge with the lowest rank, again and again. The merges inside a subword are kept with it, so each is
  still there when its turn comes; the others were never applied.
- Unigram takes the sequence of subwords with the highest sum of scores. It is still there, and has fewer rivals.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer

from spacy_bertft.errors import EncoderError


class Vocabulary(ABC):
    """The subwords of a tokenizer.json; one class for each kind of tokenizer."""

    def __init__(self, content: dict[str, Any], ids: Mapping[str, int]) -> None:
        """content: of the file. ids: subword -> id, added subwords included."""
        self.content = content
        self.model: dict[str, Any] = content["model"]
        self.ids = ids
        self.added = frozenset(one["content"] for one in content["added_tokens"])

    def required(self, *, characters: bool) -> set[str]:
        """The subwords that stay whatever the corpus is.

        characters: also those of one character, and those with a character that has no subword of its own.
        """
        return {*self.added, *self._fixed(), *(self._characters() if characters else ())}

    def parts(self, subword: str) -> set[str]:
        """The subwords that a subword needs, itself included."""
        return {subword}

    def cut(self, kept: Collection[str]) -> bytes:
        """The file with only these subwords, numbered from 0 in the old order.

        Raises an EncoderError if the tokenizer that results has other ids.
        """
        numbers = numbered(kept, self.ids)
        new = {old: numbers[subword] for subword, old in self.ids.items() if subword in numbers}
        content = {
            **self.content,
            "added_tokens": [{**one, "id": numbers[one["content"]]} for one in self.content["added_tokens"]],
            "post_processor": _with_ids(self.content.get("post_processor"), new),
            "model": {**self.model, **self._cut(numbers)},
        }
        if content.get("padding"):
            content["padding"] = {**content["padding"], "pad_id": new[content["padding"]["pad_id"]]}
        written = json.dumps(content, ensure_ascii=False).encode()
        if Tokenizer.from_buffer(written).get_vocab(with_added_tokens=True) != numbers:
            raise EncoderError(
                f"The vocabulary of the encoder's tokenizer ({self.model['type']}) can't be cut: the smaller one "
                "numbers its subwords in another order than the rows of the embeddings. Expected added subwords after "
                "the others, as tokenizers saves them. Save the tokenizer again with the current transformers."
            )
        return written

    @abstractmethod
    def _fixed(self) -> Iterable[str]:
        """The subwords that the way of splitting rests on."""

    @abstractmethod
    def _characters(self) -> Iterable[str]:
        """The subwords that any known character can be spelled with."""

    @abstractmethod
    def _cut(self, numbers: Mapping[str, int]) -> dict[str, Any]:
        """The fields of the model that change. numbers: the subwords that stay, and their new ids."""

    def _unknown(self) -> list[str]:
        unknown: str | None = self.model.get("unk_token")
        return [unknown] if unknown is not None and unknown in self.ids else []


class _WordPiece(Vocabulary):
    def _fixed(self) -> Iterable[str]:
        return self._unknown()

    def _characters(self) -> Iterable[str]:
        prefix, vocab = self.model["continuing_subword_prefix"], self.model["vocab"]
        for subword in vocab:
            inside = subword.startswith(prefix) and subword != prefix
            body = subword[len(prefix) :] if inside else subword
            spelled = [prefix + character for character in body]
            if body and not inside:
                spelled[0] = body[0]
            if len(body) == 1 or not all(one in vocab for one in spelled):
                yield subword

    def _cut(self, numbers: Mapping[str, int]) -> dict[str, Any]:
        return {"vocab": {subword: numbers[subword] for subword in self.model["vocab"] if subword in numbers}}


class _BPE(Vocabulary):
    @cached_property
    def _merges(self) -> list[tuple[str, str]]:
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in self.model["merges"])
        return [(first, second) for first, second in pairs]

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self._merges)}

    def _fixed(self) -> Iterable[str]:
        """The symbols that merges start from: all 256 bytes where it is byte-level, else characters."""
        merged = {first + second for first, second in self._merges}
        return [*self._unknown(), *(subword for subword in self.model["vocab"] if subword not in merged)]

    def _characters(self) -> Iterable[str]:
        return ()

    def parts(self, subword: str) -> set[str]:
        """What the merges of a subword make on the way to it, and itself.

        The merges inside a subword don't depend on the word around it: none crosses its edges.
        """
        found = {subword}
        symbols = self._symbols(subword)
        while True:
            ranked = [(self._ranks[pair], at) for at, pair in enumerate(pairwise(symbols)) if pair in self._ranks]
            if not ranked:
                return found
            _, at = min(ranked)
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            found.add(symbols[at])

    def _symbols(self, subword: str) -> list[str]:
        suffix = self.model.get("end_of_word_suffix") or ""
        if not suffix or not subword.endswith(suffix) or subword == suffix:
            return list(subword)
        body = subword[: -len(suffix)]
        return [*body[:-1], body[-1] + suffix]

    def _cut(self, numbers: Mapping[str, int]) -> dict[str, Any]:
        merges = [pair for pair in self._merges if all(one in numbers for one in (*pair, "".join(pair)))]
        return {
            "vocab": {subword: numbers[subword] for subword in self.model["vocab"] if subword in numbers},
            "merges": [list(pair) for pair in merges],
        }


class _Unigram(Vocabulary):
    @cached_property
    def _scores(self) -> dict[str, float]:
        # Of a subword that is listed twice, the tokenizer knows the last.
        return dict(self.model["vocab"])

    def _unknown(self) -> list[str]:
        place = self.model.get("unk_id")
        return [] if place is None else [self.model["vocab"][place][0]]

    def _fixed(self) -> Iterable[str]:
        # The score of an unknown character is derived from the lowest score of all.
        lowest = min(self._scores, key=self._scores.__getitem__)
        of_bytes = [f"<0x{number:02X}>" for number in range(256)] if self.model.get("byte_fallback") else []
        return [*self._unknown(), lowest, *(one for one in of_bytes if one in self._scores)]

    def _characters(self) -> Iterable[str]:
        return [one for one in self._scores if len(one) == 1 or not all(letter in self._scores for letter in one)]

    def _cut(self, numbers: Mapping[str, int]) -> dict[str, Any]:
        places = {subword: place for place, (subword, _) in enumerate(self.model["vocab"])}
        vocab = [
            [subword, score]
            for place, (subword, score) in enumerate(self.model["vocab"])
            if subword in numbers and places[subword] == place
        ]
        unknown = self._unknown()
        return {"vocab": vocab, "unk_id": numbers[unknown[0]] if unknown else None}


_KINDS: Mapping[str, type[Vocabulary]] = {"WordPiece": _WordPiece, "BPE": _BPE, "Unigram": _Unigram}


def read_vocabulary(tokenizer: bytes) -> Vocabulary:
    """The vocabulary of a tokenizer.json. Raises an EncoderError for a kind that can't be cut."""
    content = json.loads(tokenizer)
    model = content["model"]
    kind = _KINDS.get(model.get("type"))
    prefixed = kind is _BPE and model.get("continuing_subword_prefix")
    if kind is None or prefixed:
        found = f"BPE with the prefix {prefixed!r}" if prefixed else model.get("type")
        raise EncoderError(
            f"The encoder's tokenizer is of the kind {found}, whose vocabulary can't be cut. Expected "
            f"{', '.join(_KINDS)}, and BPE without a prefix of continuations. Leave its vocabulary as it is: give "
            "--layers and no corpus."
        )
    return kind(content, Tokenizer.from_buffer(tokenizer).get_vocab(with_added_tokens=True))


def numbered(kept: Collection[str], ids: Mapping[str, int]) -> dict[str, int]:
    """New ids of the subwords that stay: from 0, in the order of the old ids."""
    return {subword: number for number, subword in enumerate(sorted(kept, key=ids.__getitem__))}


def _with_ids(processor: Any, new: Mapping[int, int]) -> Any:
    """A post-processor with other ids of its special subwords. new: old id -> new id."""
    if processor is None:
        return None
    kind = processor["type"]
    if kind == "Sequence":
        return {**processor, "processors": [_with_ids(one, new) for one in processor["processors"]]}
    if kind == "TemplateProcessing":
        specials = {
            name: {**one, "ids": [new[number] for number in one["ids"]]}
            for name, one in processor["special_tokens"].items()
        }
        return {**processor, "special_tokens": specials}
    pairs: dict[str, Sequence[Any]] = {name: processor[name] for name in ("sep", "cls") if name in processor}
    return {**processor, **{name: [text, new[number]] for name, (text, number) in pairs.items()}}
