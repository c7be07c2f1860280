"""Read the training data of a head before training: the examples, and the labels in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from spacy.training import Example, validate_examples

from spacy_bertft.components.task import Task
from spacy_bertft.errors import DataError


def all_examples(get_examples: Callable[[], Iterable[Example]]) -> list[Example]:
    """The training examples. Raises a DataError if their file does not exist."""
    try:
        examples = list(get_examples())
    except FileNotFoundError as error:
        raise DataError(
            f"The training data {_place(error)}. Expected a .spacy file or a folder of them. Correct --paths.train, or "
            "make the file with `bertft convert`."
        ) from error
    validate_examples(examples, "HeadPipe.initialize")
    return examples


def _place(error: FileNotFoundError) -> str:
    if error.filename is None:  # a reader's own error
        return f"could not be read: {error}"
    return f"{str(error.filename)!r} does not exist ({Path(error.filename).absolute()})"


def find_labels(
    task: Task, head: str, examples: Sequence[Example], *, given: Sequence[str] | None, known: Sequence[str]
) -> Sequence[str]:
    """The given labels, or else the known ones followed by those of the examples. head: its name, for messages.

    Raises a DataError if there are none.
    """
    # Sorted, so that the order of the training texts does not matter.
    labels = [*known, *sorted(set(task.labels_in(examples)) - set(known))] if given is None else given
    if not labels:
        raise DataError(
            f"The head {head!r} found no labels: {len(examples)} training examples, none with an annotation "
            "for it. Expected annotated examples, labels added by add_label(), or a label file in "
            f"[initialize.components.{head}.labels]. Check the path and the content of the training data "
            "(`spacy debug data` shows it)."
        )
    return labels
