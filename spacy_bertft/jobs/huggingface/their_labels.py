"""Labels of heads as those of a checkpoint, in the order of an imported one's where that is still the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.huggingface.head_weights import LACKING
from spacy_bertft.jobs.huggingface.plan import labels_of
from spacy_bertft.jobs.huggingface.tags import OUTSIDE, TagLabels, read_tags
from spacy_bertft.tasks.entity_spans import Scheme, Tagging


@dataclass(frozen=True, slots=True)
class TheirLabels:
    """The labels of a checkpoint. order: for each of our logits, the place of theirs; None: there is none."""

    names: tuple[str, ...]
    order: tuple[int | None, ...]

    def changes(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a config.json that name them; empty if it does so already."""
        if _known(config) == self.names:
            return {}
        return {
            "id2label": {str(place): name for place, name in enumerate(self.names)},
            "label2id": {name: place for place, name in enumerate(self.names)},
        }


def tag_labels(labels: Sequence[str], scheme: Scheme, config: Mapping[str, Any], bias: Tensor) -> TheirLabels:
    """The labels of a token classifier.

    labels: of entities; config: of the encoder, which an imported one has the labels in; bias: of our tags (L,).
    """
    known = _known(config)
    for outside in (OUTSIDE, *known):
        found = _same_tags(known, outside, labels, scheme)
        # A tag that the checkpoint lacked can be left out as long as it was not trained.
        if found is not None and all(
            place is not None or value < LACKING / 2 for place, value in zip(found.order, bias.tolist(), strict=True)
        ):
            return TheirLabels(known, found.order)
    tags = Tagging.of(labels, scheme).tags
    return TheirLabels(tags, tuple(range(len(tags))))


def _same_tags(known: Sequence[str], outside: str, labels: Sequence[str], scheme: Scheme) -> TagLabels | None:
    """What a checkpoint's labels mean, if that is the labels and the scheme of a head."""
    try:
        found = read_tags(known, outside=outside, scheme=scheme)
    except ConfigError:
        return None
    return found if found.labels == tuple(labels) else None


def category_labels(labels: Sequence[str]) -> TheirLabels:
    """The labels of a sequence classifier."""
    return TheirLabels(tuple(labels), tuple(range(len(labels))))


def number_labels(config: Mapping[str, Any], n_outputs: int) -> TheirLabels:
    """The labels of outputs that are numbers: as they are called already, or without names."""
    known = _known(config)
    names = known if len(known) == n_outputs else tuple(f"LABEL_{place}" for place in range(n_outputs))
    return TheirLabels(names, tuple(range(n_outputs)))


def _known(config: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        return labels_of(config)
    except ConfigError:
        return ()
