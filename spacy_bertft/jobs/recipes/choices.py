"""The settings that `bertft init` chooses by data, encoder and aim, each with its reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from spacy_bertft.encoder.pooling import TokenPooling
from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.recipes.summary import Summary
from spacy_bertft.jobs.recipes.tasks import RecipeTask
from spacy_bertft.learning.rates import BASE_SIZE, usual_rate
from spacy_bertft.tasks.entity_spans import Scheme

Aim = Literal["accuracy", "speed", "distillation"]

# The run: about so many steps, within these epochs. Measured by benchmarks/accuracy/recipes.py and distillation.py: a
# student is the better, the longer it sees what its teachers say.
_STEPS = {"accuracy": 700, "speed": 350, "distillation": 2100}
_STEPS_PER_LABEL = {"accuracy": 10, "speed": 5, "distillation": 30}  # that a run has at least
_EPOCHS = {"accuracy": (4, 30), "speed": (2, 15), "distillation": (4, 90)}
# From so many categories on, twice the rate: each of them has few texts, and a head with as many outputs learns slowly.
_MANY_CATEGORIES = 50
_EVALUATIONS = 20
# An evaluated text costs about a third of a trained one; all evaluations should take no more than a quarter of the run.
_EVALUATED_SHARE = 0.75
_SPECIALS = 4  # the most special subwords in a window
_SPEED_WINDOW = 256
_RARE = 0.2  # a category is rare that has less than this share of what it would have if all were equal
_COVERED = 0.99  # the share of spans whose lengths are suggested
# With few texts: contrastive steps before the training, their rate and that of the training as shares of the usual one.
# Entities gain by so many steps; categories gained nothing by more. A training at the full rate took away a part of
# what the steps had brought to a sentence encoder; at a tenth of it, an encoder that was pretrained on masked words
# alone learned too little (benchmarks/accuracy/few_shot.py).
_FEW = {"entities": (100, 1.0, 1.0), "categories": (30, 0.5, 0.3)}
_STEPS_AFTER = 100  # of a run after them, for categories; twice as many made no clear difference on two sets
_TOUCHING = 0.05  # the share of entities up to which tags that join neighbours of a label gain more than they lose
_OF_TEXTS = {"textcat", "textcat_multilabel", "pair"}  # kinds of heads with categories
_UNKNOWN = ("none", "oos", "out_of_scope", "out-of-scope", "unknown", "other")


@dataclass(frozen=True, slots=True)
class EncoderFacts:
    """What the choices need to know of an encoder.

    name, revision  as in [components.encoder.model]
    family          "bert", "roberta", …
    body            parameters of its layers, without embeddings
    parameters      all of them
    limit           subwords in its longest window, special ones included; None: no limit
    """

    name: str = "bert-base-cased"
    revision: str = "main"
    family: str = "bert"
    body: int = BASE_SIZE
    parameters: int = 110_000_000
    limit: int | None = 512


@dataclass(frozen=True, slots=True)
class Choices:
    """The settings of a config that depend on data and encoder; by default those for an encoder of base size.

    by_subwords     subwords in a batch of texts of similar length; None: batches of any texts
    unknown         the category of texts that belong to none of the others
    span_sizes      lengths of spans to suggest, in tokens
    scheme          of the entities' tags
    token_pooling   what represents a token, for entities
    contrastive     contrastive steps before the training, for few texts; None: no such preparation
    contrastive_rate  … their rate
    """

    rate: float = 5e-5
    epochs: int = 4
    batch_size: int = 16
    by_subwords: int | None = None
    eval_frequency: int = 50
    patience: int = 0
    window: int | None = None
    pooling: str = "cls"
    scheme: Scheme = "bio"
    token_pooling: TokenPooling = "first"
    class_weights: str | None = None
    unknown: str | None = None
    spans_key: str = "sc"
    span_sizes: tuple[int, ...] = (1, 2, 3, 4)
    contrastive: int | None = None
    contrastive_rate: float = 5e-5
    reasons: dict[str, str] = field(default_factory=dict)  # setting -> why it is so

    def rows(self) -> Iterator[tuple[str, Any, str]]:
        """Each chosen setting with its value and reason."""
        for one in fields(self):
            if one.name in self.reasons:
                yield one.name, getattr(self, one.name), self.reasons[one.name]


def choose(
    task: RecipeTask,
    train: Summary,
    dev: Summary,
    encoder: EncoderFacts,
    aim: Aim = "accuracy",
    *,
    shots: bool = False,
) -> Choices:
    """Settings for a task, its data and an encoder. shots: prepare encoder and heads for few texts."""
    task = _without_missing_slots(task, train)
    found: dict[str, Any] = {}
    reasons: dict[str, str] = {}

    def set_(name: str, value: Any, why: str) -> None:
        found[name], reasons[name] = value, why

    set_("rate", *_rate(encoder, len(train.categories)))
    set_("batch_size", *_batch_size(len(train)))
    steps = math.ceil(len(train) / found["batch_size"])  # an epoch
    few = shots and "ner" not in task.kinds
    set_("epochs", *_epochs(steps, max(len(train.categories), len(train.entities)), aim, few=few))
    total = steps * found["epochs"]
    set_("eval_frequency", *_eval_frequency(total, len(train) * found["epochs"], len(dev)))
    set_(
        "patience",
        max(total // 2, found["eval_frequency"]),
        "the run ends if the score has not improved for half of its steps",
    )
    set_("window", *_window(train, dev, encoder, aim))
    if aim == "speed":
        size = _rounded(math.ceil(found["batch_size"] * float(np.mean(train.lengths))))
        set_("by_subwords", size, "batches of texts of similar length, in subwords, take less time")
    if shots:
        for name, (value, why) in for_few_texts(task, found["rate"], train).items():
            set_(name, value, why)
    if task.kinds & {"textcat", "pair"}:
        set_("class_weights", *_class_weights(train))
    if _has_intents(task):
        set_("unknown", *_unknown(train))
    if "spancat" in task.kinds:
        set_("spans_key", *_spans_key(train))
        set_("span_sizes", *_span_sizes(train.span_sizes[found["spans_key"]]))
    return Choices(**found, reasons=reasons)


def fitted(task: RecipeTask, train: Summary, chosen: Choices) -> RecipeTask:
    """A task of intents without what its texts don't have: slots, or texts of no known intent. Others stay as they are.

    The weights of the scores that remain add up to 1.
    """
    if not _has_intents(task):
        return task
    heads, weights, about = _without_missing_slots(task, train).heads, dict(task.weights), task.about
    if not train.entities:
        del weights["ents_f"]
        about = "Intents: one category per text, or none of the known ones."
    if chosen.unknown is None:
        weights = {"cats_score": 1.0, **({"ents_f": 1.0} if "ents_f" in weights else {})}
    whole = sum(value or 0.0 for value in weights.values())
    return replace(
        task,
        heads=heads,
        about=about,
        weights={name: round((value or 0.0) / whole, 2) for name, value in weights.items()},
        about_weights=task.about_weights if chosen.unknown is not None else "",
    )


def _has_intents(task: RecipeTask) -> bool:
    return any(head.name == "intent" for head in task.heads)


def _without_missing_slots(task: RecipeTask, train: Summary) -> RecipeTask:
    if train.entities or not _has_intents(task):
        return task
    return replace(task, heads=tuple(head for head in task.heads if head.kind != "ner"))


def for_few_texts(
    task: RecipeTask, usual: float = Choices().rate, train: Summary | None = None
) -> dict[str, tuple[Any, str]]:
    """The settings by which encoder and heads are prepared for few texts, each with its reason; see --shots.

    usual: the rate for more texts; train: what the texts hold, if they are known. Raises a ConfigError if no head of
    the task learns categories or entities.
    """
    if not task.kinds & {"ner", *_OF_TEXTS}:
        raise ConfigError(
            f"shots: found a task of {', '.join(sorted(task.kinds))}; expected one with categories or entities, whose "
            "texts can be compared; fix: leave --shots out"
        )
    steps, before, after = _FEW["entities" if "ner" in task.kinds else "categories"]
    found: dict[str, tuple[Any, str]] = {
        "contrastive": (steps, "--shots: encoder and heads are prepared for few texts before the training"),
        "contrastive_rate": (_times(before, usual), "--shots: the highest learning rate of these steps"),
    }
    if after != 1:
        found["rate"] = _times(after, usual), f"--shots: {after:g} of the usual {usual:g}, to keep what was prepared"
    if task.kinds & _OF_TEXTS:
        found["pooling"] = "mean", "--shots: the mean of all subwords, as in sentence encoders; [CLS] needs more texts"
    if "ner" in task.kinds:
        found["scheme"] = _scheme(train)
        found["token_pooling"] = "mean", "--shots: the mean of a word's subwords varies less than the first of them"
    return found


def _scheme(train: Summary | None) -> tuple[Scheme, str]:
    """Of the tags, for few texts."""
    touching, entities = (train.touching, train.entities.total()) if train else (0, 0)
    if touching > _TOUCHING * entities:
        return "bio", f"--shots: {touching:,} of {entities:,} entities begin right after another one of their label"
    return "io", "--shots: one tag for each label has more tokens to learn from; it joins entities that touch"


def _rate(encoder: EncoderFacts, n_categories: int) -> tuple[float, str]:
    rate = usual_rate(encoder.body)
    why = f"{encoder.body / 1e6:.0f} million parameters in its layers; base size, with 85 million, takes 5e-5"
    if n_categories < _MANY_CATEGORIES:
        return rate, why
    return 2 * rate, f"{why}; twice that for {n_categories:,} categories"


def _times(share: float, rate: float) -> float:
    return float(f"{share * rate:.2g}")


def _batch_size(n_texts: int) -> tuple[int, str]:
    size = 8 if n_texts < 500 else 16 if n_texts < 8_000 else 32
    return size, f"{n_texts:,} training texts"


def _epochs(steps: int, n_labels: int, aim: Aim, *, few: bool) -> tuple[int, str]:
    fewest, most = _EPOCHS[aim]
    usual = _STEPS_AFTER if few else _STEPS[aim]
    wanted = max(usual, _STEPS_PER_LABEL[aim] * n_labels)
    epochs = min(max(round(wanted / steps), fewest), most)
    many = f", for {n_labels:,} labels" if wanted > usual else ""
    return epochs, f"{steps:,} batches an epoch make {steps * epochs:,} steps{many}"


def _eval_frequency(total: int, trained: int, n_dev: int) -> tuple[int, str]:
    evaluations = min(_EVALUATIONS, max(4, int(_EVALUATED_SHARE * trained / max(1, n_dev))))
    frequency = max(1, total // evaluations)
    return _rounded(frequency), f"{evaluations} evaluations of {n_dev:,} texts in a run"


def _rounded(number: int) -> int:
    """A number of two digits at most, followed by zeros, not above the given one."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return int(number // unit * unit)


def _window(train: Summary, dev: Summary, encoder: EncoderFacts, aim: Aim) -> tuple[int | None, str]:
    lengths = np.concatenate([train.lengths, dev.lengths]) + _SPECIALS
    longest, limit = int(lengths.max()), encoder.limit
    if limit is None or longest <= limit:
        return None, f"the longest text has {longest - _SPECIALS:,} subwords and fits in one window"
    many = f"{np.mean(lengths > limit):.0%} of the texts are longer than {limit} subwords and take several windows"
    if aim == "speed" and limit > _SPEED_WINDOW:
        return _SPEED_WINDOW, f"{many}; attention over shorter windows is faster"
    return None, f"{many}, each as long as the encoder allows"


def _class_weights(train: Summary) -> tuple[str | None, str]:
    name, rarest = min(train.categories.items(), key=lambda item: (item[1], item[0]))
    even = train.categories.total() / len(train.categories)
    if rarest < _RARE * even:
        return "effective", f"categories are skewed: {name} has {rarest:,} texts, {even:,.0f} would be even"
    return None, f"the rarest category, {name}, has {rarest:,} texts, {even:,.0f} would be even"


def _unknown(train: Summary) -> tuple[str | None, str]:
    for label in train.categories:
        if label.lower() in _UNKNOWN:
            return label, f"{train.categories[label]:,} texts belong to no other category"
    return None, f"no category is called {', '.join(_UNKNOWN[:-1])} or {_UNKNOWN[-1]}"


def _spans_key(train: Summary) -> tuple[str, str]:
    key = max(train.spans, key=lambda key: train.spans[key].total())
    return key, f"{train.spans[key].total():,} spans"


def _span_sizes(sizes: Counter[int]) -> tuple[tuple[int, ...], str]:
    covered, chosen = 0, []
    for size, count in sizes.most_common():
        if covered >= _COVERED * sizes.total():
            break
        covered += count
        chosen.append(size)
    return tuple(sorted(chosen)), f"the lengths of {covered / sizes.total():.1%} of all spans"
