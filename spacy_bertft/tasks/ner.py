"""`bertft_ner`: entities from a tag for each token, decoded as the highest-scoring valid sequence of tags."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from spacy.tokens import Doc, Span
from spacy.training import Example

from spacy_bertft.components.head_factory import head_factory
from spacy_bertft.components.head_inference import HeadWeights, hidden_vectors, outputs, outputs_without_bias
from spacy_bertft.components.hidden_layer import HiddenLayer
from spacy_bertft.components.spans import scored_spans, set_scored_spans
from spacy_bertft.components.task import HeadOutput, not_learned
from spacy_bertft.encoder.features import group_sums
from spacy_bertft.encoder.pooling import TokenPooling, token_vectors
from spacy_bertft.learning.classes import Classes
from spacy_bertft.learning.losses import Targets
from spacy_bertft.tasks.entity_spans import Scheme, Tagging, decode, n_tags
from spacy_bertft.text.alignment import ramps
from spacy_bertft.types import Features, Floats

if TYPE_CHECKING:
    from torch import Tensor, nn

    from spacy_bertft.components.head_modules import Head

MISSING = -1  # a token without gold annotation
# spaCy's gold tags are BILUO: their prefixes in each scheme; in "iob1" they depend on the tag before.
_FROM_BILUO = {
    "bio": {"B": "B", "I": "I", "L": "I", "U": "B"},
    "biluo": {"B": "B", "I": "I", "L": "L", "U": "U"},
    "io": {"B": "I", "I": "I", "L": "I", "U": "I"},
}


@dataclass(frozen=True)
class EntityTask(HiddenLayer):
    """Named entities.

    scheme: the tagging scheme: "bio", "biluo", "io" (joins neighbouring entities of one label), or "iob1" (B only for
        an entity right after another one of its label).
    pooling: what represents a token: its "first" subword, or the "mean" of its subwords.
    overwrite: replace the entities that a Doc already has; otherwise they stay, and new ones fill the gaps.
    spans_key: key of doc.spans for the entities with their scores.
    """

    scheme: Scheme = "bio"
    pooling: TokenPooling = "first"
    overwrite: bool = False
    spans_key: str = "entities"
    needs_segments = False

    def labels_in(self, examples: Sequence[Example]) -> Iterable[str]:
        """The labels of all gold entities; warns once about those that fit no tokens."""
        _warn_of_misaligned(examples)
        return (ent.label_ for eg in examples for ent in eg.reference.ents)

    def check(self, labels: Sequence[str]) -> None:
        """Accept any labels."""

    def prepare(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The average number of annotated tokens per Doc, and how many tokens have each tag."""
        n_targets = sum(int((eg.reference.to_array("ENT_IOB") > 0).sum()) for eg in examples)
        tags = Counter(tag for eg in examples for tag in self._tags(eg))
        counts = {tag: tags[tag] for tag in sorted(tags) if tag}
        return {"targets_per_doc": max(1.0, n_targets / max(1, len(examples))), "counts": counts}

    def n_outputs(self, n_labels: int) -> int:
        """One for each tag."""
        return n_tags(self.scheme, n_labels)

    def logits(self, weights: HeadWeights, features: Features) -> Floats:
        """Logits of all tokens (T, L); those of tokens without a subword mean nothing."""
        if self.activation is not None:
            return outputs(weights, hidden_vectors(weights, self, token_vectors(features, self.pooling)))
        # The same result, but pooling a few logits is faster than pooling wide vectors.
        of_rows = replace(features, hidden=outputs_without_bias(weights, features.hidden))  # (N, L)
        pooled: Floats = token_vectors(of_rows, self.pooling) + weights["output.bias"]
        return pooled

    def build(self, width: int, n_labels: int, pooler: nn.Linear | None) -> Head:
        """A new TokenHead."""
        from spacy_bertft.tasks.modules import TokenHead

        return TokenHead(width, n_labels, self.scheme, self.pooling, self)

    def start(self, module: Head, labels: Sequence[str], statistics: Mapping[str, Any]) -> None:
        """Let the biases predict the share of each tag in the training data (Lin et al., 2017, section 4.1)."""
        import torch

        with torch.no_grad():
            module.output.bias.copy_(self._classes(labels, statistics).log_shares())

    def _classes(self, labels: Sequence[str], statistics: Mapping[str, Any]) -> Classes:
        tags = _tagging(tuple(labels), self.scheme).tags
        return replace(Classes.exclusive(tags, statistics), none=tags[0])

    def targets(self, output: HeadOutput[Tensor], examples: Sequence[Example]) -> Targets:
        """The tag of each token that has gold annotation and a subword."""
        import torch

        classes = self._classes(output.labels, output.statistics)
        tag_ids = {tag: place for place, tag in enumerate(classes.names)}
        tags = np.array([self._target(tag, tag_ids) for eg in examples for tag in self._tags(eg)], dtype=np.int64)
        tags[output.features.token_subword_counts == 0] = MISSING
        values = torch.from_numpy(tags).to(output.logits.device)
        return Targets("exclusive", values, values != MISSING, classes=classes)

    def _target(self, tag: str, tag_ids: dict[str, int]) -> int:
        """The number of a tag; missing annotation has one of its own."""
        if not tag:
            return MISSING
        if tag not in tag_ids:
            raise not_learned("entity label", tag[2:], sorted({name[2:] for name in tag_ids} - {""}))
        return tag_ids[tag]

    def _tags(self, eg: Example) -> Iterator[str]:
        """The scheme's tag of each predicted token. None, "-" and partial tags count as missing annotation, ""."""
        before = ""  # label of the token before
        for tag in eg.get_aligned_ner():
            if tag is None or (tag != "O" and len(tag) < 3):
                before = ""
                yield ""
                continue
            kind, label = tag[0], tag[2:]
            if tag != "O" and self.scheme == "iob1":
                yield f"{'B' if kind in 'BU' and before == label else 'I'}-{label}"
            else:
                yield tag if tag == "O" else f"{_FROM_BILUO[self.scheme][kind]}-{label}"
            before = label

    def annotate(self, docs: Sequence[Doc], output: HeadOutput[Floats]) -> None:
        """Set doc.ents, and the entities with their scores in doc.spans."""
        features, labels = output.features, output.labels
        # Tokens without a subword, such as white space, are left out of the decoding.
        has_subword = features.token_subword_counts > 0  # (T,)
        counts = group_sums(has_subword.astype(np.int64), features.token_counts)  # (B,)
        place_in_doc = ramps(features.token_counts)[has_subword]
        entities = decode(output.logits[has_subword], counts, _tagging(labels, self.scheme))
        shift = (np.cumsum(counts) - counts)[entities.sequence]  # (E,)
        starts = place_in_doc[entities.starts + shift]
        ends = place_in_doc[entities.ends + shift - 1] + 1
        found: list[list[Span]] = [[] for _ in docs]
        scores: list[list[float]] = [[] for _ in docs]
        for number, start, end, label, score in zip(
            *(array.tolist() for array in (entities.sequence, starts, ends, entities.labels, entities.scores)),
            strict=True,
        ):
            found[number].append(Span(docs[number], start, end, label=labels[label]))
            scores[number].append(score)
        for doc, spans, of_spans in zip(docs, found, scores, strict=True):
            self._set(doc, spans, of_spans)

    def _set(self, doc: Doc, spans: list[Span], scores: list[float]) -> None:
        score_of = {(span.start, span.end, span.label): score for span, score in zip(spans, scores, strict=True)}
        blocked: list[Span] = []
        if not self.overwrite and doc.has_annotation("ENT_IOB"):
            blocked = _blocked(doc)
            taken = {token for span in (*doc.ents, *blocked) for token in range(span.start, span.end)}
            free = [span for span in spans if taken.isdisjoint(range(span.start, span.end))]
            spans = sorted((*doc.ents, *free), key=lambda span: span.start)
            score_of |= {(span.start, span.end, span.label): score for span, score in scored_spans(doc)}
        doc.set_ents(spans, blocked=blocked, default="outside")
        scored = [span for span in doc.ents if (span.start, span.end, span.label) in score_of]
        values = [score_of[span.start, span.end, span.label] for span in scored]
        set_scored_spans(doc, self.spans_key, scored, values)


def _blocked(doc: Doc) -> list[Span]:
    """Tokens that doc.set_ents(blocked=…) has closed to entities."""
    closed = [token.i for token in doc if token.ent_iob == 3 and not token.ent_type]
    return [doc[place : place + 1] for place in closed]


@lru_cache(maxsize=32)
def _tagging(labels: tuple[str, ...], scheme: Scheme) -> Tagging:
    return Tagging.of(labels, scheme)


def _warn_of_misaligned(examples: Sequence[Example]) -> None:
    """Warn once about gold entities that fit no tokens of the pipeline's tokenizer: they can't be learned."""
    n_gold = n_fitting = 0
    for eg in examples:
        n_gold += len(eg.reference.ents)
        n_fitting += len(eg.get_aligned_ents_and_ner()[0]) if eg.reference.ents else 0
    if n_fitting < n_gold:
        warnings.warn(
            f"{n_gold - n_fitting} of {n_gold} gold entities don't begin and end with a token of this pipeline's "
            "tokenizer. The tokens they touch are left out of the loss. Correct the offsets, or the tokenizer.",
            stacklevel=2,
        )


make_ner = head_factory(
    "bertft_ner",
    EntityTask,
    EntityTask,
    assigns=["doc.ents", "token.ent_iob", "token.ent_type", "doc.spans"],
    scorer="spacy.ner_scorer.v1",
    score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0, "ents_per_type": None},
)
