"""Whether data suit a task: errors where they don't, and warnings of what will make scores poor or unsteady."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.recipes.summary import Summary
from spacy_bertft.jobs.recipes.tasks import RecipeTask

_FEW_DEV_TEXTS = 100
_FEW_EXAMPLES = 5  # of a label
# Examples of each label, on average, up to which the preparation for few texts was measured and gained
# (benchmarks/accuracy/few_shot.py).
_FEW_OF_EACH = {"entity labels": 20, "categories": 32}
_NAMED = 5  # labels in a message


def check_annotation(
    task: str, recipe: RecipeTask, train_path: Path, dev_path: Path, train: Summary, dev: Summary
) -> None:
    """Raise a DataError unless both sets of texts are annotated for the task."""
    for path, found in ((train_path, train), (dev_path, dev)):
        for kind in sorted(recipe.kinds):
            if task == "intents" and kind == "ner":  # slots are optional
                continue
            expected = _missing(kind, found)
            if expected is not None:
                raise data_error(str(path), found=_described(found), expected=expected, fix=_fix(task, found))
    if recipe.kinds & {"textcat", "pair"} and len(train.categories) < 2:
        raise data_error(
            str(train_path),
            found=f"one category, {', '.join(train.categories)}",
            expected="at least two",
            fix='add texts of another category; for texts that have a category or not, use the task "multilabel"',
        )


def _missing(kind: str, found: Summary) -> str | None:
    """What the texts should have and don't; None if they have it."""
    wanted = {
        "ner": ("entities", bool(found.entities)),
        "textcat": ("exactly one category for each text", bool(found.categorised) and found.exclusive),
        "textcat_multilabel": ("categories", bool(found.categories.total())),
        "pair": (
            "pairs of texts, each with one category",
            found.pairs == len(found) and bool(found.categorised) and found.exclusive,
        ),
        "qa": ("questions with contexts and answers", bool(found.questions)),
        "regression": ("a number for each text", bool(found.values)),
        "spancat": (
            "spans in doc.spans (.spacy files hold them; for others, set span_group, --span-group sc)",
            any(found.spans.values()),
        ),
    }
    expected, there = wanted[kind]
    return None if there else expected


def _described(found: Summary) -> str:
    """What the texts have."""
    categories = "one category each" if found.exclusive else "any number of categories"
    parts = {
        f"{found.entities.total():,} entities": bool(found.entities),
        f"{found.categorised:,} with {categories}": bool(found.categorised),
        f"{found.pairs:,} pairs": bool(found.pairs),
        f"{found.questions:,} questions": bool(found.questions),
        f"{found.values:,} numbers": bool(found.values),
        f"spans in {', '.join(map(repr, found.spans))}": bool(found.spans),
    }
    held = [part for part, there in parts.items() if there]
    return f"{len(found):,} texts, " + (", ".join(held) if held else "none of them annotated")


def _fix(task: str, found: Summary) -> str:
    fitting = [
        name
        for name, kind in (
            ("qa", "qa"),
            ("pair", "pair"),
            ("regression", "regression"),
            ("ner", "ner"),
            ("textcat", "textcat"),
            ("multilabel", "textcat_multilabel"),
            ("spancat", "spancat"),
        )
        if name != task and _missing(kind, found) is None
    ]
    keys = "check the path, and the names of keys and columns (--label-key and others)"
    return f"{keys}, or choose the task that fits these texts: {', '.join(fitting)}" if fitting else keys


def warnings_of(recipe: RecipeTask, train: Summary, dev: Summary, *, shots: bool) -> tuple[str, ...]:
    """What the user should know of the data, one sentence each. shots: encoder and heads are prepared for few texts."""
    return tuple(_warnings(recipe, train, dev, shots=shots))


def _warnings(recipe: RecipeTask, train: Summary, dev: Summary, *, shots: bool) -> Iterator[str]:
    if len(dev) < _FEW_DEV_TEXTS:
        yield (
            f"{len(dev)} development texts are few: one text more or less changes a score by about "
            f"{100 / len(dev):.0f} points, so the best model is chosen partly by chance."
        )
    shared = len(set(train.texts) & set(dev.texts))
    if shared:
        yield f"{shared:,} development texts are among the training texts: scores will be too high."
    for what, one, two in _labels(recipe, train, dev):
        unseen = sorted(set(+two) - set(+one))
        if unseen:
            yield f"{_named(unseen)}: {what} of the development texts that the training texts don't have."
        rare = sorted(label for label, count in one.items() if 0 < count < _FEW_EXAMPLES)
        if rare:
            yield f"{_named(rare)}: {what} with fewer than {_FEW_EXAMPLES} examples, which are hardly ever learned."
    if "textcat_multilabel" in recipe.kinds and train.exclusive and len(train.categories) > 1:
        yield 'Each text has exactly one category: the task "textcat" suits such texts better.'
    if not shots:
        yield from _few_of_each(recipe, train, dev)


def _few_of_each(recipe: RecipeTask, train: Summary, dev: Summary) -> Iterator[str]:
    """That the preparation for few texts suits them, if all heads have few; it would not suit one that has many."""
    means = {what: counts.total() / len(+counts) for what, counts, _ in _labels(recipe, train, dev) if +counts}
    if means and all(2 <= mean <= _FEW_OF_EACH.get(what, 0) for what, mean in means.items()):
        held = " and ".join(f"the {what} have {mean:.0f}" for what, mean in means.items())
        yield f"On average, {held} training examples each: --shots suits so few."


def _labels(recipe: RecipeTask, train: Summary, dev: Summary) -> Iterator[tuple[str, Counter[str], Counter[str]]]:
    if "ner" in recipe.kinds:
        yield "entity labels", train.entities, dev.entities
    if recipe.kinds & {"textcat", "textcat_multilabel", "pair"}:
        yield "categories", train.categories, dev.categories
    if "spancat" in recipe.kinds:
        for key in train.spans:
            yield "span labels", train.spans[key], dev.spans.get(key, Counter())


def _named(labels: list[str]) -> str:
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return ", ".join(labels[:_NAMED]) + more
