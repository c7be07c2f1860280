"""What a checkpoint's config.json says about its head, and which head of ours is the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.huggingface.families import POOLINGS, Family, HeadNames, Kind, family_of
from spacy_bertft.jobs.huggingface.tags import OUTSIDE, read_tags
from spacy_bertft.tasks import qa, regression
from spacy_bertft.tasks.entity_spans import Scheme

Task = Literal["ner", "textcat", "multilabel", "pair", "qa", "regression", "fill-mask"]
_Ending = Kind | Literal["MaskedLM"]


@dataclass(frozen=True, slots=True)
class TaskHead:
    """The head of ours for a task. kind: the ending of transformers' class; problem: its problem_type."""

    kind: _Ending
    factory: str
    component: str
    problem: str | None = None


TASK_HEADS: Mapping[Task, TaskHead] = {
    "ner": TaskHead("TokenClassification", "bertft_ner", "ner"),
    "textcat": TaskHead("SequenceClassification", "bertft_textcat", "textcat", "single_label_classification"),
    "multilabel": TaskHead(
        "SequenceClassification", "bertft_textcat_multilabel", "textcat_multilabel", "multi_label_classification"
    ),
    "pair": TaskHead("SequenceClassification", "bertft_pair", "pair", "single_label_classification"),
    "regression": TaskHead("SequenceClassification", "bertft_regression", "regression", "regression"),
    "qa": TaskHead("QuestionAnswering", "bertft_qa", "qa"),
    "fill-mask": TaskHead("MaskedLM", "bertft_mlm", "mlm"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """The head of ours that is the same as a checkpoint's.

    settings  of the component
    labels    of the component
    order     for each of our logits, the place of theirs; None: there is none, as for a tag that they lack
    """

    task: Task
    family: Family
    names: HeadNames
    settings: Mapping[str, Any]
    labels: tuple[str, ...]
    order: tuple[int | None, ...]


def choose_task(config: Mapping[str, Any], source: str, *, task: Task | None = None, pairs: bool = False) -> Task:
    """The task of a checkpoint: `task` if it fits the checkpoint's class, else what its config.json says.

    config: of the checkpoint; source: its name, for messages; pairs: it reads pairs of texts.
    """
    architecture = next(iter(config.get("architectures") or []), None)
    found: dict[Task, TaskHead] = {
        name: head for name, head in TASK_HEADS.items() if str(architecture).endswith(f"For{head.kind}")
    }
    # It has the head for masked words, and a second one that is not used.
    if str(architecture).endswith("ForPreTraining") and task == "fill-mask":
        found = {"fill-mask": TASK_HEADS["fill-mask"]}
    if task is not None and (task in found or architecture is None):
        return "pair" if task == "textcat" and pairs else task
    if task is not None and found:
        raise ConfigError(
            f"The task is {task!r}, but {source!r} is a {architecture}. Expected one of {', '.join(found)}. Leave the "
            "task out to find it from the checkpoint."
        )
    if architecture is None:
        raise ConfigError(
            f"The config.json of {source!r} does not say what head the checkpoint has (it has no architectures). "
            f"Expected a task, one of {', '.join(TASK_HEADS)}. Give the one that it was trained for (--task)."
        )
    if not found:
        kinds = ", ".join(dict.fromkeys(f"…For{head.kind}" for head in TASK_HEADS.values()))
        what = "an encoder without a head" if architecture.endswith("Model") else "a head that has no equal here"
        raise ConfigError(
            f"The checkpoint {source!r} is a {architecture}: {what}. Expected one of {kinds}. To train a head on its "
            "encoder, name the checkpoint in a bertft_encoder, or give it to `bertft init --encoder`."
        )
    if "textcat" not in found:
        return next(iter(found))
    return _category_task(config, pairs=pairs)


def _category_task(config: Mapping[str, Any], *, pairs: bool) -> Task:
    problem = config.get("problem_type")
    if problem == "regression" or (problem is None and len(labels_of(config)) == 1):
        return "regression"
    if problem == "multi_label_classification":
        return "multilabel"
    return "pair" if pairs else "textcat"


def read_plan(
    config: Mapping[str, Any], source: str, task: Task, *, outside: str = OUTSIDE, scheme: Scheme | None = None
) -> Plan:
    """The head of ours that is the same as a checkpoint's. Raises a ConfigError if there is none.

    config: of the checkpoint; source: its name, for messages; outside, scheme: see read_tags.
    """
    family = family_of(config, f"The checkpoint {source!r}")
    kind = TASK_HEADS[task].kind
    if kind == "MaskedLM":
        raise ValueError("a model for masked words is kept whole")
    names = family.heads[kind]
    settings: dict[str, Any] = names.hidden_layer(config)
    if kind == "SequenceClassification":
        settings["pooling"] = _pooling(names, config)
    found = labels_of(config)
    if task == "ner":
        tags = read_tags(found, outside=outside, scheme=scheme)
        return Plan(task, family, names, {**settings, "scheme": tags.scheme}, tags.labels, tags.order)
    if task in ("qa", "regression"):
        labels, wanted = ((qa.LABEL,), 2) if task == "qa" else ((regression.LABEL,), 1)
        if len(found) != wanted:
            raise ConfigError(
                f"The checkpoint {source!r} has {len(found)} outputs (id2label in its config.json). Expected {wanted} "
                f"for the task {task!r}. Choose another task, if it was trained for one."
            )
        return Plan(task, family, names, settings, labels, tuple(range(wanted)))
    return Plan(task, family, names, settings, found, tuple(range(len(found))))


def _pooling(names: HeadNames, config: Mapping[str, Any]) -> str:
    found = "cls" if names.pooling_setting is None else config.get(names.pooling_setting, "cls")
    if found not in POOLINGS:
        raise ConfigError(
            f"The head of the checkpoint pools by {found!r} ({names.pooling_setting} in its config.json). Expected "
            f"one of {', '.join(POOLINGS)}. This checkpoint can't be imported with its head."
        )
    return POOLINGS[found]


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels in a config.json, in the order of the logits. Raises a ConfigError unless they can be labels here."""
    named = config.get("id2label")
    if named is None:  # transformers leaves out what is as by default
        return tuple(f"LABEL_{place}" for place in range(config.get("num_labels") or 2))
    try:
        places = {int(place): label for place, label in named.items()}
    except (AttributeError, TypeError, ValueError):
        places = {}
    if not places or sorted(places) != list(range(len(places))):
        raise ConfigError(
            f"id2label in the config.json of the checkpoint is {str(named)[:80]}. Expected a label for each place of "
            'the logits, from 0 on, such as {"0": "O", "1": "B-PER"}. Correct it.'
        )
    labels = tuple(str(places[place]) for place in range(len(places)))
    repeated = sorted({label for label in labels if labels.count(label) > 1 or not label})
    if repeated:
        raise ConfigError(
            f"id2label in the config.json of the checkpoint has {', '.join(map(repr, repeated[:8]))} for several "
            "places, or an empty label. Expected distinct labels. Correct it."
        )
    return labels
