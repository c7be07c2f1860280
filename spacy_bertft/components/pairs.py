"""Docs of two segments: sentence pairs, and questions with their contexts.

The text of such a Doc is the first text, a tab, and the second text; `doc.spans["segments"]` holds a span for each. The
encoder reads them as [CLS] first [SEP] second [SEP].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.util import registry
from spacy.vocab import Vocab

from spacy_bertft.errors import DataError
from spacy_bertft.types import Ints

SEGMENTS_KEY = "segments"
SEPARATOR = "\t"


def pair_doc(nlp: Language, first: str | Doc, second: str | Doc) -> Doc:
    """A Doc of two texts, for `nlp(doc)` and `nlp.pipe(docs)`.

    Strings are split by the pipeline's tokenizer; Docs keep their tokens. For a text that is in many pairs, call
    `nlp.make_doc(text)` once.
    """
    return _join(nlp.vocab, _doc(nlp, first, "first of two segments"), _doc(nlp, second, "second of two segments"))


def question_doc(nlp: Language, question: str | Doc, context: str | Doc) -> Doc:
    """A Doc of a question and the context that may hold its answer, which `bertft_qa` sets in doc.spans["answers"].

    For many questions about one context, pass `nlp.make_doc(context)` as context.
    """
    return _join(nlp.vocab, _doc(nlp, question, "question"), _doc(nlp, context, "context"))


def _doc(nlp: Language, text: str | Doc, what: str) -> Doc:
    if not isinstance(text, str | Doc):
        raise DataError(f"The {what} is a {type(text).__name__}, {text!r}. Expected a text or a Doc.")
    doc = text if isinstance(text, Doc) else nlp.make_doc(text)
    if not _has_words(doc):
        raise DataError(
            f"The {what} is empty: {doc.text!r}. Expected a text with at least one word. Leave this one out."
        )
    return doc


def _has_words(tokens: Doc | Span) -> bool:
    return not all(token.is_space for token in tokens)


def _join(vocab: Vocab, first: Doc, second: Doc) -> Doc:
    tokens = [*first, *second]
    words, spaces = [token.text for token in tokens], [bool(token.whitespace_) for token in tokens]
    if any(SEPARATOR in word for word in words[: len(first)]):
        raise DataError(
            f"The first of two segments holds a tab: {first.text[:60]!r}. Expected none, since the second "
            "segment of a text starts after its first tab. Write a space there."
        )
    words.insert(len(first), SEPARATOR)
    spaces.insert(len(first), False)
    doc = Doc(vocab, words=words, spaces=spaces)
    doc.spans[SEGMENTS_KEY] = [Span(doc, 0, len(first)), Span(doc, len(first) + 1, len(doc))]
    return doc


class PairTokenizer:
    """A tokenizer that wraps another one, and sets the two segments of a text with a tab in it.

    So everything that makes Docs from texts makes pairs: nlp("first\tsecond"), spaCy's corpus reader, `spacy evaluate`.
    """

    def __init__(self, vocab: Vocab, tokenizer: Any) -> None:
        self.vocab = vocab
        self.tokenizer = tokenizer

    def __call__(self, text: str) -> Doc:
        """Split a text into tokens, and into segments if it has words both before and after its first tab."""
        first, tab, second = text.partition(SEPARATOR)
        if tab and first.strip() and second.strip():
            return _join(self.vocab, self.tokenizer(first), self.tokenizer(second))
        doc: Doc = self.tokenizer(text)
        return doc

    def pipe(self, texts: Iterable[str], batch_size: int = 1000) -> Iterator[Doc]:
        """Split a stream of texts."""
        return map(self, texts)

    def __getattr__(self, name: str) -> Any:
        # Rules, to_disk and everything else come from the wrapped tokenizer.
        if name in ("tokenizer", "__getstate__", "__setstate__"):
            raise AttributeError(name)
        return getattr(self.tokenizer, name)


@registry.tokenizers("spacy-bertft.PairTokenizer.v1")
def create_pair_tokenizer(
    tokenizer: Callable[[Language], Any] | None = None,
) -> Callable[[Language], PairTokenizer]:
    """The tokenizer for pipelines with `bertft_pair` or `bertft_qa`.

    tokenizer: splits each segment into tokens; None: the language's own tokenizer.
    """

    def create(nlp: Language) -> PairTokenizer:
        own = nlp.Defaults.config.get("nlp", {}).get("tokenizer", {"@tokenizers": "spacy.Tokenizer.v1"})
        inside = tokenizer or registry.resolve({"tokenizer": own})["tokenizer"]
        return PairTokenizer(nlp.vocab, inside(nlp))

    return create


@registry.augmenters("spacy-bertft.both_orders.v1")
def create_both_orders() -> Callable[[Language, Example], Iterator[Example]]:
    """Train on each pair in both orders, for relations that hold both ways (paraphrase, not entailment)."""

    def both_orders(nlp: Language, example: Example) -> Iterator[Example]:
        yield example
        segments = find_segments(example.predicted)
        if segments is not None:
            swapped = Example(example.predicted.copy(), example.reference)
            swapped.predicted.spans[SEGMENTS_KEY] = [swapped.predicted[it.start : it.end] for it in reversed(segments)]
            yield swapped

    return both_orders


def find_segments(doc: Doc) -> tuple[Span, Span] | None:
    """The first and the second segment of a Doc; None if it has none. Raises a DataError for any other spans."""
    if SEGMENTS_KEY not in doc.spans:
        return None
    spans = tuple(doc.spans[SEGMENTS_KEY])
    if len(spans) != 2 or not all(map(_has_words, spans)) or _overlap(*spans):
        raise DataError(
            f"doc.spans[{SEGMENTS_KEY!r}] holds {[span.text[:40] for span in spans]} ({doc.text[:60]!r}). Expected two "
            "spans with at least one word each that have no token in common: the first and the second segment. Make "
            "the Doc with spacy_bertft.pair_doc(); if those spans mean something else, give them another key."
        )
    return spans[0], spans[1]


def need_segments(docs: Sequence[Doc], component: str) -> None:
    """Raise a DataError if a Doc has no segments. component: the name of the one that needs them."""
    for doc in docs:
        if find_segments(doc) is None:
            raise DataError(
                f"The component {component!r} got a Doc without doc.spans[{SEGMENTS_KEY!r}]: {doc.text[:60]!r}. "
                "Expected two segments. Make the Doc with spacy_bertft.pair_doc() or question_doc(); or pass a text "
                "with a tab that has words on both sides to a pipeline with [nlp.tokenizer] @tokenizers = "
                '"spacy-bertft.PairTokenizer.v1".'
            )


def segment_bounds(docs: Sequence[Doc]) -> Ints | None:
    """Start and end characters of both segments (B, 4), -1 for a Doc without segments; None if no Doc has any."""
    if not any(SEGMENTS_KEY in doc.spans for doc in docs):
        return None
    bounds = np.full((len(docs), 4), -1, dtype=np.int64)
    for row, segments in zip(bounds, map(find_segments, docs), strict=True):
        if segments is not None:
            row[:] = [edge for span in segments for edge in (span.start_char, span.end_char)]
    return bounds


def _overlap(first: Span, second: Span) -> bool:
    return bool(first.start < second.end and second.start < first.end)
