"""Heads of a saved pipeline as checkpoints that transformers loads, one folder each."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from spacy.language import Language
from spacy.util import load_config
from torch import nn

from spacy_bertft import compat
from spacy_bertft.components.fill_mask_pipe import FillMaskPipe
from spacy_bertft.components.head_modules import HiddenHead
from spacy_bertft.components.head_pipe import HeadPipe
from spacy_bertft.components.hidden_layer import HiddenLayer
from spacy_bertft.encoder.checkpoint import CONFIG, Checkpoint
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.errors import ConfigError
from spacy_bertft.files import PIPELINE, staged_pipeline
from spacy_bertft.jobs.evaluate import check_pipeline, load_pipeline
from spacy_bertft.jobs.huggingface.compare import largest_difference, our_logits, sample, their_logits
from spacy_bertft.jobs.huggingface.families import POOLINGS, Family, HeadNames, family_of
from spacy_bertft.jobs.huggingface.head_weights import to_theirs
from spacy_bertft.jobs.huggingface.plan import TASK_HEADS, Task, choose_task
from spacy_bertft.jobs.huggingface.their_labels import TheirLabels, category_labels, number_labels, tag_labels
from spacy_bertft.jobs.writing import writing
from spacy_bertft.learning.shim import shim_of
from spacy_bertft.tasks.ner import EntityTask
from spacy_bertft.tasks.textcat import CategoryTask

_FACTORIES = ", ".join(head.factory for head in TASK_HEADS.values())
_POOLINGS = {ours: theirs for theirs, ours in POOLINGS.items()}


@dataclass(frozen=True)
class Exported:
    """A head as a checkpoint.

    architecture  transformers' class of the checkpoint
    labels        in the order of its logits
    difference    the largest difference between its logits and the pipeline's, on built-in texts; None: not compared
    """

    component: str
    folder: Path
    architecture: str
    labels: tuple[str, ...]
    difference: float | None


def export_huggingface(pipeline: Path, out: Path, *, overwrite: bool = False) -> tuple[Exported, ...]:
    """Write each head of the pipeline in the folder `pipeline`, with its encoder, to a folder of its name in `out`.

    overwrite: replace what an earlier call wrote.

    transformers' AutoModelFor… loads these folders. Their logits are compared with the pipeline's on built-in texts.
    Raises a ConfigError for a head that transformers' model of its family can't express.
    """
    nlp = _load(pipeline)
    heads = [name for name, pipe in nlp.pipeline if isinstance(pipe, HeadPipe | FillMaskPipe)]
    if not heads:
        raise ConfigError(
            f"The pipeline {str(pipeline)!r} has no head of this package (found: {', '.join(nlp.component_names)}). "
            f"Expected one of {_FACTORIES}: transformers has no equal of spaCy's own components."
        )
    marker, what = f"*/{CONFIG}", "exported checkpoints"
    with staged_pipeline(pipeline, out, overwrite=overwrite, what=what, marker=marker) as folder, writing(out):
        return tuple(replace(_write(nlp, name, folder / name), folder=out / name) for name in heads)


def _load(pipeline: Path) -> Language:
    """Load the pipeline on the CPU, in float32."""
    check_pipeline(pipeline)
    blocks = load_config(pipeline / PIPELINE)["components"]
    exact: dict[str, Any] = {}
    for name, block in blocks.items():
        if block.get("factory") == "bertft_encoder":
            exact |= {f"components.{name}.model.device": "cpu", f"components.{name}.model.precision": "float32"}
        if block.get("factory") == "bertft_mlm":
            exact[f"components.{name}.device"] = "cpu"
    return load_pipeline(pipeline, exact)


def _write(nlp: Language, name: str, folder: Path) -> Exported:
    pipe = nlp.get_pipe(name)
    if isinstance(pipe, FillMaskPipe):
        pipe.fill_mask.model.save(folder)
        return Exported(name, folder, type(pipe.fill_mask.model.model).__name__, (), None)
    assert isinstance(pipe, HeadPipe)
    factory = nlp.get_pipe_meta(name).factory
    task = next((task for task, head in TASK_HEADS.items() if head.factory == factory), None)
    if task is None:
        raise ConfigError(
            f"The head {name!r} is a {factory}. Expected one of {_FACTORIES}: transformers has no equal of others. "
            "Remove it from the pipeline."
        )
    encoder = _encoder_of(name, pipe)
    plan = _Plan.of(name, task, pipe, encoder)
    checkpoint = plan.checkpoint(encoder.at_rest())
    checkpoint.write(folder)
    return Exported(name, folder, plan.architecture, plan.labels.names, _compare(folder, plan, encoder))


def _encoder_of(name: str, pipe: HeadPipe) -> Encoder:
    source = pipe.reads.encoder
    if source is None or not source.encoder.trainable:
        what = "of spacy-transformers" if source is None else "exported to ONNX Runtime"
        raise ConfigError(
            f"The encoder that the head {name!r} reads is {what}. Expected a bertft_encoder with its weights. Export "
            "the pipeline that was trained."
        )
    encoder: Encoder = source.encoder
    return encoder


@dataclass(frozen=True)
class _Plan:
    """The checkpoint that a head becomes. head: a copy whose logits are transformers'; see `_adapted`."""

    task: Task
    family: Family
    names: HeadNames
    labels: TheirLabels
    config: Mapping[str, Any]
    head: HiddenHead

    @classmethod
    def of(cls, name: str, task: Task, pipe: HeadPipe, encoder: Encoder) -> _Plan:
        # transformers 4 also saves what it noted on loading: "_name_or_path" and "_attn_implementation_autoset".
        config = {key: value for key, value in encoder.at_rest().config.items() if not key.startswith("_")}
        family = family_of(config, f"The encoder of the head {name!r}")
        kind = TASK_HEADS[task].kind
        assert kind != "MaskedLM"
        names, layer = family.heads[kind], pipe.task
        assert isinstance(layer, HiddenLayer)
        architecture = f"{family.stem}For{kind}"
        changes = names.settings_for(layer, config)
        if changes is None:
            raise _not_expressed(name, architecture, layer, names, config)
        changes |= _pooling_changes(name, architecture, getattr(layer, "pooling", "cls"), names)
        head = _adapted(pipe)
        labels = _labels(pipe, task, config, head)
        changes |= labels.changes(config)
        changes["architectures"] = [architecture]
        problem = TASK_HEADS[task].problem
        if problem is not None and _task_in({**config, **changes}) not in (task, "textcat" if task == "pair" else task):
            changes["problem_type"] = problem
        return cls(task, family, names, labels, {**config, **changes}, head)

    @property
    def architecture(self) -> str:
        return str(self.config["architectures"][0])

    def checkpoint(self, encoder: Checkpoint) -> Checkpoint:
        """The files and weights. encoder: those of the encoder."""
        bare = replace(encoder, trained_pooler=False).weights_to_save()  # a pooler belongs to the head, if any
        weights = {f"{self.family.prefix}.{name}": tensor.cpu() for name, tensor in bare.items()}
        weights |= to_theirs(self.head.state_dict(), self.names, self.labels.order)
        files = dict(encoder.files)
        if self.config != encoder.config:  # as transformers writes it
            files[CONFIG] = (json.dumps(self.config, indent=2, sort_keys=True) + "\n").encode()
        return Checkpoint(files, weights)


def _task_in(config: Mapping[str, Any]) -> Task | None:
    try:
        return choose_task(config, "")
    except ConfigError:
        return None


def _labels(pipe: HeadPipe, task: Task, config: Mapping[str, Any], head: HiddenHead) -> TheirLabels:
    if isinstance(pipe.task, EntityTask):
        return tag_labels(pipe.labels, pipe.task.scheme, config, head.output.bias)
    if isinstance(pipe.task, CategoryTask):
        unknown = pipe.task.unknown_label
        return category_labels(pipe.labels if unknown is None else (*pipe.labels, unknown))
    return number_labels(config, 2 if task == "qa" else 1)


def _adapted(pipe: HeadPipe) -> HiddenHead:
    """A copy of a head's module with its task's settings in the output layer: temperature, unknown label, scale."""
    module = copy.deepcopy(shim_of(pipe.model).module)
    if not isinstance(module, HiddenHead):
        raise ConfigError(
            f"The head {pipe.name!r} has no weights yet. Expected a trained one. Train the pipeline first."
        )
    module = module.cpu()
    output, statistics, task = module.output, pipe.cfg["statistics"], pipe.task
    with torch.no_grad():
        if isinstance(task, CategoryTask) and task.temperature != 1:
            output.weight.div_(task.temperature)
            output.bias.div_(task.temperature)
        if isinstance(task, CategoryTask) and task.unknown_label is not None:  # a constant logit
            wider = nn.Linear(output.in_features, output.out_features + 1)
            wider.weight.copy_(torch.cat([output.weight, output.weight.new_zeros(1, output.in_features)]))
            wider.bias.copy_(torch.cat([output.bias, output.bias.new_tensor([task.unknown_threshold])]))
            module.output = wider
        if "scale" in statistics and (statistics["mean"], statistics["scale"]) != (0.0, 1.0):
            output.weight.mul_(statistics["scale"])
            output.bias.mul_(statistics["scale"]).add_(statistics["mean"])
    return module


def _pooling_changes(name: str, architecture: str, pooling: str, names: HeadNames) -> dict[str, Any]:
    """The settings of config.json for what represents a text or a token."""
    if pooling == "first":
        return {}
    if names.pooling_setting is not None and pooling in _POOLINGS:
        return {names.pooling_setting: _POOLINGS[pooling]}
    if pooling == "cls":
        return {}
    expected = " or ".join(map(repr, _POOLINGS)) if names.pooling_setting else "'cls', or 'first' for tokens"
    raise ConfigError(
        f"The head {name!r} has pooling = {pooling!r}. Expected {expected}, which {architecture} computes. Train it "
        "with that setting to export it."
    )


def _not_expressed(
    name: str, architecture: str, layer: HiddenLayer, names: HeadNames, config: Mapping[str, Any]
) -> ConfigError:
    theirs = HiddenLayer(**names.hidden_layer(config))
    return ConfigError(
        f"The hidden layer of the head {name!r} has {_settings(layer)}. Expected {_settings(theirs)}, which "
        f"{architecture} computes. Train the head with these settings to export it, or remove it from the pipeline."
    )


def _settings(layer: HiddenLayer) -> str:
    values = {name: getattr(layer, name) for name in ("activation", "norm_eps", "hidden_bias")}
    return ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items())


def _compare(folder: Path, plan: _Plan, encoder: Encoder) -> float | None:
    """Load the checkpoint by transformers, and compare its logits with the pipeline's."""
    import transformers

    kind: Any = getattr(transformers, f"AutoModelFor{TASK_HEADS[plan.task].kind}")
    with compat.quiet_transformers():
        model = kind.from_pretrained(folder, local_files_only=True, **compat.dtype_argument(torch.float32))
    texts = sample(encoder.splitter, encoder.window)
    theirs = their_logits(model, encoder.splitter, texts)
    return largest_difference(our_logits(encoder, plan.head, texts), theirs, plan.labels.order)
