"""The weights of a head under transformers' names and under ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.huggingface.families import HeadNames

# The bias of a tag that a checkpoint lacks: its probability is 0. Infinite weights are taken for damaged ones.
LACKING = -1e4


def to_ours(weights: Mapping[str, Tensor], names: HeadNames, order: Sequence[int | None]) -> dict[str, Tensor]:
    """The weights of our head. weights: of transformers' model; order: see Plan."""
    found: dict[str, Tensor] = {}
    for ours, theirs in names.parts().items():
        for kind in ("weight", "bias"):
            if f"{theirs}.{kind}" in weights:
                found[f"{ours}.{kind}"] = weights[f"{theirs}.{kind}"].detach().float().contiguous().clone()
    _check_shapes(found, names)
    output, bias = found["output.weight"], found["output.bias"]
    found["output.weight"] = output.new_zeros(len(order), output.shape[1])
    found["output.bias"] = bias.new_full((len(order),), LACKING)
    for place, there in enumerate(order):
        if there is not None:
            found["output.weight"][place] = output[there]
            found["output.bias"][place] = bias[there]
    return found


def _check_shapes(found: Mapping[str, Tensor], names: HeadNames) -> None:
    width = found["output.weight"].shape[1]
    dense = found.get("dense.weight")
    if dense is not None and tuple(dense.shape) != (width, width):
        raise ConfigError(
            f"The weights {names.dense}.weight of the checkpoint's head are {tuple(dense.shape)}. Expected "
            f"({width}, {width}), the width of its encoder, as in our heads. This checkpoint can't be imported with "
            "its head."
        )


def to_theirs(weights: Mapping[str, Tensor], names: HeadNames, order: Sequence[int | None]) -> dict[str, Tensor]:
    """The weights of transformers' head. weights: of our head; order: see Plan."""
    theirs: dict[str, Tensor] = {}
    for ours, name in names.parts().items():
        for kind in ("weight", "bias"):
            if f"{ours}.{kind}" in weights:
                theirs[f"{name}.{kind}"] = weights[f"{ours}.{kind}"].detach().cpu().contiguous()
    places = [place for _, place in sorted((there, place) for place, there in enumerate(order) if there is not None)]
    for kind in ("weight", "bias"):
        theirs[f"{names.output}.{kind}"] = theirs[f"{names.output}.{kind}"][torch.tensor(places)].contiguous()
    return theirs
