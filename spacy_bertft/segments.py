"""Docs of two segments: sentence pairs, and questions with their contexts.

Such a Doc is the first text, a tab, and the second text, with `doc.spans["segments"]` over both. The encoder reads them
as [CLS] first [SEP] second [SEP].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from spacy.language import Language
from spacy.tokenizer import Tokenizer
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.util import registry
from spacy.vocab import Vocab

from spacy_bertft.errors import DataError
from spacy_bertft.types import Ints

SEGMENTS_KEY = "segments"
SEPARATOR = "\t"


def pair_doc(nlp: Language, first: str | Doc, second: str | Doc, *, segments_key: str = SEGMENTS_KEY) -> Doc:
    """A Doc of two texts, for `nlp(doc)` and `nlp.pipe(docs)`.

    Texts are split into tokens by the pipeline's tokenizer. A Doc brings its tokens: where one text stands in many
    pairs, `nlp.make_doc(text)` once saves work.
    """
    parts = [text if isinstance(text, Doc) else nlp.make_doc(text) for text in (first, second)]
    return _join(nlp.vocab, parts[0], parts[1], segments_key)


def question_doc(nlp: Language, question: str | Doc, context: str | Doc, *, segments_key: str = SEGMENTS_KEY) -> Doc:
    """A Doc of a question and the context that may hold its answer, which `bertft_qa` sets in doc.spans["answers"].

    For many questions over one context, give `nlp.make_doc(context)` as context.
    """
    for what, text in (("question", question), ("context", context)):
        if not (text.text if isinstance(text, Doc) else text).strip():
            raise DataError(f"The {what} is empty. Expected a text with at least one word. Leave the question out.")
    return pair_doc(nlp, question, context, segments_key=segments_key)


def _join(vocab: Vocab, first: Doc, second: Doc, segments_key: str) -> Doc:
    for place, doc in (("first", first), ("second", second)):
        if not doc.text.strip():
            raise DataError(f"The {place} of two segments is {doc.text!r}. Expected a text with at least one word.")
    if SEPARATOR in first.text:
        raise DataError(
            f"The first of two segments holds a tab: {first.text[:60]!r}. Expected none, since the first tab of a text "
            "is where its second segment begins. Write a space there."
        )
    tokens = [*first, *second]
    words, spaces = [token.text for token in tokens], [bool(token.whitespace_) for token in tokens]
    words.insert(len(first), SEPARATOR)
    spaces.insert(len(first), False)
    doc = Doc(vocab, words=words, spaces=spaces)
    doc.spans[segments_key] = [Span(doc, 0, len(first)), Span(doc, len(first) + 1, len(doc))]
    return doc


class PairTokenizer(Tokenizer):  # type: ignore[misc]
    """spaCy's tokenizer, which makes the two segments of a text that has a tab in it.

    So whatever makes Docs of texts makes pairs: nlp("first\\tsecond"), spaCy's own corpus reader, `spacy evaluate`.
    """

    segments_key = SEGMENTS_KEY

    def __call__(self, string: str) -> Doc:
        """Split a text into tokens."""
        first, tab, second = string.partition(SEPARATOR)
        if not (tab and first.strip() and second.strip()):
            doc: Doc = super().__call__(string)
            return doc
        return _join(self.vocab, super().__call__(first), super().__call__(second), self.segments_key)


@registry.tokenizers("spacy-bertft.PairTokenizer.v1")
def create_pair_tokenizer(segments_key: str = SEGMENTS_KEY) -> Callable[[Language], PairTokenizer]:
    """The tokenizer for pipelines with `bertft_pair` or `bertft_qa`."""

    def create(nlp: Language) -> PairTokenizer:
        plain = registry.tokenizers.get("spacy.Tokenizer.v1")()(nlp)
        tokenizer = PairTokenizer(
            nlp.vocab,
            rules=plain.rules,
            prefix_search=plain.prefix_search,
            suffix_search=plain.suffix_search,
            infix_finditer=plain.infix_finditer,
            token_match=plain.token_match,
            url_match=plain.url_match,
            faster_heuristics=plain.faster_heuristics,
        )
        tokenizer.segments_key = segments_key
        return tokenizer

    return create


@registry.augmenters("spacy-bertft.both_orders.v1")
def create_both_orders(segments_key: str = SEGMENTS_KEY) -> Callable[[Language, Example], Iterator[Example]]:
    """Train on each pair in both orders, for relations that hold both ways (paraphrase, not entailment)."""

    def both_orders(nlp: Language, example: Example) -> Iterator[Example]:
        yield example
        segments = find_segments(example.predicted, segments_key)
        if segments is not None:
            swapped = Example(example.predicted.copy(), example.reference)
            swapped.predicted.spans[segments_key] = [swapped.predicted[it.start : it.end] for it in reversed(segments)]
            yield swapped

    return both_orders


def find_segments(doc: Doc, segments_key: str = SEGMENTS_KEY) -> tuple[Span, Span] | None:
    """The first and the second segment of a Doc; None if it has none. An error if they are no pair."""
    if segments_key not in doc.spans:
        return None
    spans = tuple(doc.spans[segments_key])
    if len(spans) != 2 or not all(span.text.strip() for span in spans) or _overlap(*spans):
        raise DataError(
            f"doc.spans[{segments_key!r}] holds {[span.text[:40] for span in spans]} ({doc.text[:60]!r}). Expected two "
            "spans with at least one word each that have no token in common: the first and the second segment. Make "
            "the Doc with spacy_bertft.pair_doc(); if those spans mean something else, set another segments_key in the "
            "encoder's block."
        )
    return spans[0], spans[1]


def need_segments(docs: Sequence[Doc], segments_key: str, *, component: str) -> list[tuple[Span, Span]]:
    """The segments of Docs for a component that can't do without."""
    found = [find_segments(doc, segments_key) for doc in docs]
    for doc, segments in zip(docs, found, strict=True):
        if segments is None:
            raise DataError(
                f"{component} got a Doc without doc.spans[{segments_key!r}]: {doc.text[:60]!r}. Expected two segments. "
                "Make the Doc with spacy_bertft.pair_doc() or question_doc(); for texts with a tab between the "
                'segments, set [nlp.tokenizer] @tokenizers = "spacy-bertft.PairTokenizer.v1" in the config.'
            )
    return [segments for segments in found if segments is not None]


def segment_bounds(docs: Sequence[Doc], segments_key: str) -> Ints | None:
    """Where the segments start and end, as characters (B, 4), -1 where a Doc has none; None if no Doc has any."""
    if not any(segments_key in doc.spans for doc in docs):
        return None
    bounds = np.full((len(docs), 4), -1, dtype=np.int64)
    for row, segments in zip(bounds, (find_segments(doc, segments_key) for doc in docs), strict=True):
        if segments is not None:
            row[:] = [edge for span in segments for edge in (span.start_char, span.end_char)]
    return bounds


def _overlap(first: Span, second: Span) -> bool:
    return bool(first.start < second.end and second.start < first.end)
