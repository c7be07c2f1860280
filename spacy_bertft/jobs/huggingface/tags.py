"""Labels of token classifiers -> the tags of our schemes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from spacy_bertft.errors import ConfigError
from spacy_bertft.tasks.entity_spans import PREFIXES, Scheme, Tagging

OUTSIDE = "O"
# The letters of the schemes for the parts of an entity, and the same parts in ours: BIOES, BMES and BMEWO name them
# differently.
_PARTS = {"B": "B", "I": "I", "M": "I", "L": "L", "E": "L", "U": "U", "S": "U", "W": "U"}
_SUFFIXED = re.compile(f".+[-_][{''.join(_PARTS)}]", re.DOTALL)
_PREFIXED = re.compile(f"([{''.join(_PARTS)}])([-_])(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TagLabels:
    """What the labels of a token classifier mean."""

    scheme: Scheme
    labels: tuple[str, ...]  # of entities, in the order in which they appear
    order: tuple[int | None, ...]  # for each of our tags, the place of its label; None: the classifier lacks it


def read_tags(names: Sequence[str], *, outside: str = OUTSIDE, scheme: Scheme | None = None) -> TagLabels:
    """Find the scheme, the entity labels and the place of each tag.

    names: the classifier's labels, in the order of its logits.
    outside: the label of tokens outside of entities.
    scheme: None: the one that fits the labels. Labels with B and I are of "bio" (IOB2), unless a label has only I: then
        B marks an entity after another one, as in "iob1". If all have both, "iob1" must be given. Without any B or I,
        as in E-mail, and with "io", they are plain labels.

    Raises a ConfigError for labels that none of our schemes can hold.
    """
    if outside not in names:
        raise ConfigError(
            f"The token classifier has no label {outside!r} for tokens outside of entities (found: {_some(names)}). "
            "bertft_ner needs one, since it sets entities, not a tag for every token. If another label means it, name "
            "it (--outside); if the labels are without names, write the names into id2label in config.json."
        )
    inside = [name for name in names if name != outside]
    parts = _parts(inside, scheme)
    found = _scheme(parts, scheme, names)
    places = {tag: names.index(name) for tag, name in zip(parts, inside, strict=True)}
    labels = tuple(dict.fromkeys(label for _, label in parts))
    order: list[int | None] = [names.index(outside)]
    for tag in Tagging.of(labels, found).tags[1:]:
        order.append(places.get((tag[0], tag[2:])))
    return TagLabels(found, labels, tuple(order))


def _parts(names: Sequence[str], scheme: Scheme | None) -> list[tuple[str, str]]:
    """The part of an entity, in our letters, and the entity label that each name stands for."""
    matches = [match for match in map(_PREFIXED.fullmatch, names) if match]
    if _are_plain(names, {match[1] for match in matches}, scheme):  # a token of an entity, wherever in it
        if names and all(map(_SUFFIXED.fullmatch, names)):
            raise ConfigError(
                f"The labels of the token classifier are tags with the part of the entity at the end ({_some(names)}). "
                "Expected it at the start, such as B-PER. Change the names in id2label in its config.json, in the same "
                "order."
            )
        return [("I", name) for name in names]
    if len(matches) < len(names) or len({match[2] for match in matches}) > 1:
        others = [name for name in names if not _PREFIXED.fullmatch(name)] or names
        raise ConfigError(
            f"The labels of the token classifier are partly tags such as {matches[0][0]!r} and partly others "
            f"({_some(others)}). Expected tags of one scheme, such as B-PER and I-PER, or plain labels, each a "
            "kind of entity. Correct id2label in its config.json."
        )
    parts = [(_PARTS[match[1]], match[3]) for match in matches]
    twice = {part for part in parts if parts.count(part) > 1}
    if twice:
        same = [match[0] for match, part in zip(matches, parts, strict=True) if part in twice]
        raise ConfigError(
            f"Some labels of the token classifier mean the same tag ({_some(same)}). Expected one letter for each "
            "part of an entity. Correct id2label in its config.json."
        )
    return parts


def _are_plain(names: Sequence[str], letters: set[str], scheme: Scheme | None) -> bool:
    """Whether names are entity labels, not tags. letters: with which they begin as tags do."""
    no_entity_goes_on = not letters & {"B", "I"}
    if scheme == "io":  # tags of another scheme are refused, not taken as labels
        return no_entity_goes_on or not all(map(_PREFIXED.fullmatch, names))
    return not letters or (scheme is None and no_entity_goes_on)


def _scheme(parts: Sequence[tuple[str, str]], wanted: Scheme | None, names: Sequence[str]) -> Scheme:
    kinds = {kind for kind, _ in parts}
    if wanted is not None:
        if not kinds <= set(PREFIXES[wanted]):
            raise ConfigError(
                f"The scheme is {wanted!r}, with the tags {', '.join(PREFIXES[wanted])}, but the labels of the token "
                f"classifier have others ({_some(names)}). Expected a scheme that has them all. Leave it out to find "
                "it from the labels."
            )
        return wanted
    if kinds & {"L", "U"}:
        return "biluo"
    if "B" not in kinds:
        return "io"
    begun = {label for kind, label in parts if kind == "B"}
    return "bio" if begun >= {label for _, label in parts} else "iob1"


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "none"
