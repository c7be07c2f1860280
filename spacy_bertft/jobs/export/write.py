"""Copying a saved pipeline with its encoders exported for ONNX Runtime."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import srsly
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from spacy.language import Language
from spacy.util import load_config

from spacy_bertft.components.encoder_pipe import ENCODER_FOLDER, EncoderPipe
from spacy_bertft.components.requirements import CORE, requirement
from spacy_bertft.encoder.checkpoint import Checkpoint
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.engines.family_names import FAMILIES
from spacy_bertft.engines.family_weights import read_net
from spacy_bertft.engines.fused import FusedEngine
from spacy_bertft.engines.int8 import find_inputs
from spacy_bertft.engines.onnx_graph import build
from spacy_bertft.errors import ConfigError
from spacy_bertft.files import PIPELINE

_META = "meta.json"


def write(
    nlp: Language, pipeline: Path, folder: Path, names: Sequence[str], *, int8_texts: Sequence[str] | None = None
) -> None:
    """Copy the folder `pipeline`, loaded as `nlp`, to `folder`, with its encoders exported.

    int8_texts: sample texts, to export in int8; None: in float32.
    """
    replaced = {pipeline / name / ENCODER_FOLDER for name in names}
    shutil.copytree(pipeline, folder, ignore=lambda inside, files: files if Path(inside) in replaced else ())
    for name in names:
        pipe = nlp.get_pipe(name)
        assert isinstance(pipe, EncoderPipe)
        _exported(name, pipe.encoder, int8_texts).write(folder / name / ENCODER_FOLDER)
    backends = {f"components.{name}.model.backend": "onnxruntime" for name in names}
    load_config(folder / PIPELINE, overrides=backends, interpolate=False).to_disk(folder / PIPELINE, interpolate=False)
    _require_onnx(folder / _META, nlp)


def _exported(name: str, encoder: Encoder, int8_texts: Sequence[str] | None) -> Checkpoint:
    """The encoder as saved, with a graph instead of its weights. name: its component's name, for messages."""
    checkpoint = encoder.at_rest()
    net = read_net(encoder.shape, checkpoint.weights) if encoder.shape else None
    if net is None:
        raise ConfigError(
            f"The encoder {name!r} is of the family {checkpoint.config.get('model_type')}, or has settings that can't "
            f"be exported. Expected one of {', '.join(sorted(FAMILIES))}, with GELU or ReLU and the positions of its "
            "family. Use the pipeline as it is, or train one with such an encoder."
        )
    if int8_texts is None:
        return Checkpoint(checkpoint.files, graph=build(net))
    inputs = find_inputs(net, encoder.batches(int8_texts, budget=FusedEngine.budget))
    return Checkpoint(checkpoint.files, graph=build(net, inputs))


def _require_onnx(meta: Path, nlp: Language) -> None:
    """Let the pipeline's wheels require ONNX Runtime, and no longer what training needs."""
    content = srsly.read_json(meta)
    others = [line for line in content.get("requirements", []) if not _is_ours(line)]
    needs_torch = any(nlp.get_pipe_meta(name).factory == "bertft_mlm" for name in nlp.component_names)
    ours = [requirement("onnx"), *([requirement("train")] if needs_torch else [])]
    srsly.write_json(meta, content | {"requirements": [*others, *ours]})


def _is_ours(line: str) -> bool:
    return canonicalize_name(Requirement(line).name) in (CORE, "spacy-bertft")
