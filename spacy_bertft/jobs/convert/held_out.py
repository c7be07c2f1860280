"""Development texts set aside from all annotated texts, for exports that hold both in one file."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from spacy.tokens import Doc

from spacy_bertft.components.pairs import SEGMENTS_KEY
from spacy_bertft.errors import ConfigError, data_error
from spacy_bertft.tasks.scorers import ANSWERS_KEY

DEV_SHARE = 0.2  # where nobody has said how many
TRAIN, DEV = "train.spacy", "dev.spacy"


def _check_share(share: float) -> None:
    """Raise a ConfigError unless a share leaves texts on both sides."""
    if not 0 < share < 1:
        raise ConfigError(
            f"dev_share: found {share:g}; expected a number between 0 and 1; fix: give 0.2 for a fifth of the texts "
            "(--dev-share 0.2)"
        )


def held_out(docs: Sequence[Doc], share: float, where: str) -> tuple[list[Doc], list[Doc]]:
    """Divide Docs into training and development texts, each in the given order.

    A text's place depends on the text alone, in the order of its hash, so that the parts don't change from call to
    call, and hardly when texts are added. Equal texts, pairs with the same first text and questions on the same context
    stay together: the scores would be too high otherwise.

    share: of the development texts. where: for messages. Raises a DataError if all belong together.
    """
    _check_share(share)
    groups: dict[bytes, list[int]] = defaultdict(list)
    for number, doc in enumerate(docs):
        groups[hashlib.sha256(_shared_text(doc).encode("utf-8", "surrogatepass")).digest()].append(number)
    if len(groups) < 2:
        raise data_error(
            where,
            found=f"{len(docs)} texts that are equal" if len(docs) > 1 else "one text",
            expected="at least two different ones, for training and development",
            fix="annotate more, or give the development texts in a file of their own",
        )
    chosen: set[int] = set()
    for key in sorted(groups)[:-1]:
        if chosen and len(chosen) >= round(share * len(docs)):
            break
        chosen.update(groups[key])
    return (
        [doc for number, doc in enumerate(docs) if number not in chosen],
        [doc for number, doc in enumerate(docs) if number in chosen],
    )


def _shared_text(doc: Doc) -> str:
    """What Docs that must stay together have in common: the context of a question, the first text of a pair."""
    if SEGMENTS_KEY not in doc.spans:
        return str(doc.text)
    return str(doc.spans[SEGMENTS_KEY][ANSWERS_KEY in doc.spans].text)
