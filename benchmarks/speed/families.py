"""How fast our own engines run each family, beside transformers' model: random weights, encoder alone.

    pip install -c constraints.txt -e ".[export]"
    python benchmarks/speed/families.py albert mpnet modernbert deberta-v2

Layers of base size, few of them, since all cost the same. transformers gets windows of similar length in padded
batches, and its own choice of attention. One thread, and CPU time instead of the clock's, so that other work on the
machine disturbs little; runs alternate; medians of the ratios of each round.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import numpy as np
import torch
import typer
from transformers import AutoConfig, AutoModel

from spacy_bertft.engines.family_weights import read_net, read_shape
from spacy_bertft.engines.fused import FusedEngine
from spacy_bertft.engines.int8 import find_inputs
from spacy_bertft.engines.onnx import OnnxEngine
from spacy_bertft.engines.onnx_graph import build
from spacy_bertft.text.batches import bucket, pad
from spacy_bertft.types import Ints, Packed

VOCABULARY, PADDED_BUDGET = 2000, 1024
BASE = {"vocab_size": VOCABULARY, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 3,
        "num_attention_heads": 12, "max_position_embeddings": 514, "pad_token_id": 1}  # fmt: skip
# As the checkpoints of base size have them, of DeBERTa those of v3.
OWN: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 128},
    "modernbert": {"intermediate_size": 1152, "local_attention": 128, "reference_compile": False,
                   **dict.fromkeys(("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id"), 2)},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 256,
                   "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False,
                   "type_vocab_size": 0},
}  # fmt: skip


def main(
    families: Annotated[list[str], typer.Argument(help="model_type of each.")],
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 5,
) -> None:
    """Print how many times as fast as transformers' model each engine is."""
    torch.set_num_threads(1)
    random = np.random.default_rng(1)
    texts = {
        "short": np.clip(random.lognormal(3.1, 0.45, 40), 4, 80).astype(np.int64),  # 945 subwords
        "mixed": np.clip(random.lognormal(4.0, 0.9, 12), 6, 512).astype(np.int64),  # 631
        "long": np.full(2, 512),
    }
    for family in families:
        subjects = subjects_of(family)
        for name, lengths in texts.items():
            print(f"{family:11} {name:6} {measure(subjects, lengths, rounds)}", flush=True)


@torch.no_grad()
def subjects_of(family: str) -> dict[str, tuple[Callable[[Packed], object], int, bool]]:
    """What runs a batch, its budget, and whether it pads, by name."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(BASE | OWN.get(family, {})))
    model = AutoModel.from_config(config).eval()
    shape = read_shape(json.loads(config.to_json_string()))
    net = None if shape is None else read_net(shape, model.state_dict())
    if net is None:
        raise SystemExit(f"The family {family} is not one of ours.")
    inputs = find_inputs(net, batches_of(np.full(4, 64), budget=256, padded=False))
    ours = {
        "float32": FusedEngine(net),
        "bfloat16": FusedEngine(net, half=True),
        "ONNX": OnnxEngine(build(net), padding=1),
        "ONNX int8": OnnxEngine(build(net, inputs), padding=1),
    }

    def theirs(packed: Packed) -> object:
        mask, ids = pad(packed.ids, packed.lengths, 1)
        with torch.no_grad():
            return model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask).long())

    return {
        "transformers": (theirs, PADDED_BUDGET, True),
        **{name: (engine, engine.budget, engine.padded) for name, engine in ours.items()},
    }


def batches_of(lengths: Ints, *, budget: int, padded: bool) -> Iterator[Packed]:
    """Random subwords in windows of these lengths."""
    random = np.random.default_rng(2)
    for group in bucket(lengths, budget=budget, padded=padded):
        positions = np.concatenate([np.arange(length) for length in lengths[group]])
        yield Packed(random.integers(5, VOCABULARY, len(positions)), positions, lengths[group])


def measure(subjects: dict[str, tuple[Callable[[Packed], object], int, bool]], lengths: Ints, rounds: int) -> str:
    """The median ratio of each subject, and the lowest and highest."""
    runs = {name: (run, list(batches_of(lengths, budget=budget, padded=padded)))
            for name, (run, budget, padded) in subjects.items()}  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, (run, batches) in runs.items():
            start = time.process_time()
            for batch in batches:
                run(batch)
            if number:  # the first round warms up
                times[name].append(time.process_time() - start)
    shown = []
    for name, found in times.items():
        ratios = [theirs / own for theirs, own in zip(times["transformers"], found, strict=True)]
        shown.append(f"{name} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return "  ".join(shown[1:])


if __name__ == "__main__":
    typer.run(main)
