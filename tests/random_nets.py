"""Random encoders of any family and settings, as a Net, and transformers' own forward of the same windows."""

from __future__ import annotations

import json
import warnings

import numpy as np
import torch
from transformers import AutoConfig, AutoModel

from spacy_bertft.engines.family_weights import read_net, read_shape
from spacy_bertft.types import Packed

SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 600,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
OWN = {
    "albert": {"embedding_size": 16},
    "modernbert": {"local_attention": 16, "cls_token_id": 2, "sep_token_id": 3, "reference_compile": False},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16},
}
# What sets each family apart, in all combinations that take another way somewhere.
SETTINGS = [
    ("albert", {}),
    ("albert", {"num_hidden_groups": 2, "inner_group_num": 2}),
    ("mpnet", {}),
    ("modernbert", {}),
    ("modernbert", {"norm_bias": True, "attention_bias": True, "mlp_bias": True}),
    ("modernbert", {"local_attention": 128}),
    ("deberta-v2", {"type_vocab_size": 2}),
    ("deberta-v2", {"share_att_key": True, "position_biased_input": False, "norm_rel_ebd": "layer_norm"}),
    ("deberta-v2", {"pos_att_type": "c2p", "position_buckets": -1, "max_relative_positions": 40}),
    ("deberta-v2", {"pos_att_type": ["p2c"], "position_biased_input": False, "type_vocab_size": 2}),
    ("deberta-v2", {"pos_att_type": []}),
]


def random_model(family, **settings):
    """transformers' model, with weights so large that mistakes show."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # ModernBERT's and DeBERTa's import under transformers 4.49
        model = AutoModel.from_config(AutoConfig.for_model(family, **(SIZES | OWN.get(family, {}) | settings))).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(torch.randn_like(weight) * (2.0 if "rel" in name else 0.1))  # distances count for little
    return model


def net_of_model(model):
    shape = read_shape(json.loads(model.config.to_json_string()))
    return read_net(shape, model.state_dict())


def windows_of(lengths, seed=0):
    """Windows of these lengths, without padding subwords."""
    lengths = np.sort(np.array(lengths, dtype=np.int64))[::-1].copy()
    ids = np.random.default_rng(seed).integers(5, SIZES["vocab_size"], lengths.sum())
    return Packed(ids, np.concatenate([np.arange(length) for length in lengths]), lengths)


@torch.no_grad()
def rows_of_model(model, packed):
    """Hidden rows of each window, run alone."""
    windows = np.split(packed.ids, np.cumsum(packed.lengths)[:-1])
    return torch.cat([model(torch.from_numpy(ids)[None]).last_hidden_state[0] for ids in windows])
