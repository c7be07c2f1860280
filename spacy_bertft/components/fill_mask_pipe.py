"""`bertft_mlm`: candidates for each [MASK] of a Doc."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacy.language import Language
from spacy.pipeline.pipe import Pipe
from spacy.tokens import Doc, Span, SpanGroup
from spacy.training import Example

from spacy_bertft import files
from spacy_bertft.components.doc_texts import STREAM_CHARACTERS
from spacy_bertft.components.extensions import register
from spacy_bertft.components.requirements import require
from spacy_bertft.components.streams import annotated
from spacy_bertft.components.workers import ThreadGuard
from spacy_bertft.encoder.folders import check_files
from spacy_bertft.encoder.settings import Device, EncoderSettings
from spacy_bertft.errors import ConfigError, need_torch
from spacy_bertft.text.batches import chunk

if TYPE_CHECKING:
    from spacy_bertft.encoder.fill_mask import FillMask

MODEL_FOLDER = "model"


class FillMaskPipe(Pipe):
    """Sets doc.spans: a span for each mask, with its candidates in `span._.candidates`."""

    def __init__(self, model: str, name: str, *, top: int, spans_key: str, device: Device) -> None:
        if top < 1:
            raise ConfigError(f"top of {name!r} is {top}; expected at least 1. Set a larger one.")
        self.source = model
        self.name = name
        self.top = top
        self.spans_key = spans_key
        self.settings = EncoderSettings(device=device)
        self._fill_mask: FillMask | None = None
        self._guard_threads = ThreadGuard()

    @property
    def fill_mask(self) -> FillMask:
        """The masked language model, loaded on first use."""
        if self._fill_mask is None:
            self._fill_mask = self._load(self.source)
        return self._fill_mask

    @fill_mask.setter
    def fill_mask(self, fill_mask: FillMask) -> None:
        self._fill_mask = fill_mask

    def initialize(self, get_examples: Any = None, *, nlp: Language | None = None) -> None:
        """Load the model that the config names."""
        self._fill_mask = self._load(self.source)

    def _load(self, source: str) -> FillMask:
        need_torch(f"The component {self.name!r}")
        from spacy_bertft.encoder.fill_mask import FillMask

        return FillMask.load(source, self.settings)

    def __call__(self, doc: Doc) -> Doc:
        """Fill the masks of a Doc."""
        self._fill([doc])
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Fill the masks of a stream of Docs, in batches of at most `batch_size` Docs."""
        for docs in chunk(stream, size=batch_size, budget=STREAM_CHARACTERS, cost=lambda doc: len(doc.text)):
            yield from annotated(self, docs, self._fill)

    def _fill(self, docs: Sequence[Doc]) -> None:
        self._guard_threads()
        for doc, masks in zip(docs, self.fill_mask.fill([doc.text for doc in docs], top=self.top), strict=True):
            found = [(doc.char_span(mask.start, mask.end, alignment_mode="expand"), mask.candidates) for mask in masks]
            spans = [(span, candidates) for span, candidates in found if span is not None]
            attrs = {"candidates": [[[one.text, one.probability] for one in candidates] for _, candidates in spans]}
            doc.spans[self.spans_key] = SpanGroup(
                doc, name=self.spans_key, attrs=attrs, spans=[span for span, _ in spans]
            )

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """No scores: there are no gold annotations for masks."""
        return {}

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write the model as a Hugging Face folder, path/model."""
        self.fill_mask.model.save(Path(path) / MODEL_FOLDER)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> FillMaskPipe:
        """Load the model from path/model; nothing is looked up anywhere else."""
        folder = Path(path) / MODEL_FOLDER
        check_files(folder)  # without its tokenizer's files, transformers would make another one up
        self._fill_mask = self._load(str(folder))
        return self

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """The files that to_disk writes, in one bytestring."""
        return files.to_bytes(self.to_disk)

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> FillMaskPipe:
        """Load the result of to_bytes."""
        return files.from_bytes(bytes_data, self.from_disk)


def _span_candidates(span: Span) -> list[tuple[str, float]]:
    """The candidates for a mask and their probabilities, the most likely first. Same as `span._.candidates`."""
    for group in span.doc.spans.values():
        for it, candidates in zip(group, group.attrs.get("candidates", ()), strict=False):
            if (it.start, it.end) == (span.start, span.end):
                return [(text, probability) for text, probability in candidates]
    return []


@Language.factory(
    "bertft_mlm",
    assigns=["doc.spans"],
    default_config={"model": "bert-base-cased", "top": 5, "spans_key": "masks", "device": "auto"},
)
def make_fill_mask(nlp: Language, name: str, model: str, top: int, spans_key: str, device: Device) -> FillMaskPipe:
    """Create the component that fills masks.

    model: a hub name, a folder, or package/folder of a masked language model.
    top: number of candidates per mask.
    spans_key: key of doc.spans for the masks.
    device: as for the encoder.
    """
    require(nlp, "train")
    return FillMaskPipe(model, name, top=top, spans_key=spans_key, device=device)


register(Span, "candidates", _span_candidates)
