"""Settings of a config.json that only some families have, read as fields of Shape; None: unlike any encoder we know.

A setting that an older or newer version of transformers leaves out has its default there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spacy_bertft.engines.net import Biases, Disentangled, DistanceBias, Rotary, Sharing

Config = Mapping[str, Any]
Fields = dict[str, Any]


def is_size(found: object) -> bool:
    """Whether it is an integer above 0."""
    return isinstance(found, int) and not isinstance(found, bool) and found > 0


def plain(config: Config) -> Fields | None:
    """BERT and its like."""
    return {}


def distilbert(config: Config) -> Fields | None:
    """Positions may be sines, which are in the weights all the same, but which we can't tell from learned ones."""
    return None if config.get("sinusoidal_pos_embds") else {}


def albert(config: Config) -> Fields | None:
    """Layers in groups that share weights."""
    groups, repeats = config.get("num_hidden_groups", 1), config.get("inner_group_num", 1)
    return {"sharing": Sharing(groups, repeats)} if is_size(groups) and is_size(repeats) else None


# transformers computes MPNet's buckets for this number, whatever the size of the table.
MPNET_BUCKETS = 32


def mpnet(config: Config) -> Fields | None:
    """Biases by distance."""
    buckets = config.get("relative_attention_num_buckets", MPNET_BUCKETS)
    return {"distances": DistanceBias(buckets)} if is_size(buckets) and buckets >= MPNET_BUCKETS else None


_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


def modernbert(config: Config) -> Fields | None:
    """Rotary positions, local attention in most layers, and biases only where asked for."""
    local, every = config.get("local_attention", 128), config.get("global_attn_every_n_layers", 3)
    kinds = config.get("layer_types")
    if kinds is None and is_size(every):  # transformers 4
        kinds = [_LOCAL if number % every else _GLOBAL for number in range(config["num_hidden_layers"])]
    bases = _rotary_bases(config)
    if not isinstance(kinds, list) or len(kinds) != config["num_hidden_layers"] or bases is None:
        return None
    if not is_size(local) or not set(kinds) <= set(bases):
        return None
    names = {"norms": "norm_bias", "attention": "attention_bias", "feed_forward": "mlp_bias"}
    return {
        "rotary": tuple(Rotary(bases[kind], local // 2 if kind == _LOCAL else None) for kind in kinds),
        "biases": Biases(**{part: bool(config.get(name, False)) for part, name in names.items()}),
        "learned_positions": False,
    }


def _rotary_bases(config: Config) -> dict[str, float] | None:
    """The base of each kind of layer; None if angles are scaled."""
    of_all = config.get("global_rope_theta", 160_000.0)
    of_local = config.get("local_rope_theta", 10_000.0)
    bases = {_GLOBAL: of_all, _LOCAL: of_all if of_local is None else of_local}
    for kind, settings in (config.get("rope_parameters") or {}).items():  # transformers 5
        if isinstance(settings, Mapping):
            if settings.get("rope_type", "default") != "default":
                return None
            bases[kind] = settings.get("rope_theta", bases.get(kind))
    known = all(isinstance(base, int | float) and base > 0 for base in bases.values())
    return bases if known and not config.get("rope_scaling") else None


def deberta(config: Config) -> Fields | None:
    """Disentangled attention, with or without learned positions. Not the convolution of its largest models."""
    kinds = config.get("pos_att_type") or []
    kinds = kinds.lower().split("|") if isinstance(kinds, str) else list(kinds)
    kinds = [str(kind).strip() for kind in kinds]
    heads, width = config["num_attention_heads"], config["hidden_size"]
    usual = (
        config.get("relative_attention") is True
        and set(kinds) <= {"c2p", "p2c"}
        and not config.get("conv_kernel_size")
        and config.get("embedding_size", width) == width
        and config.get("attention_head_size", width // heads) == width // heads
    )
    furthest, buckets = config.get("max_relative_positions", -1), config.get("position_buckets", -1)
    if not usual or not isinstance(furthest, int) or not isinstance(buckets, int):
        return None
    furthest = furthest if furthest >= 1 else config["max_position_embeddings"]
    distances = Disentangled(
        span=buckets if buckets > 0 else furthest,
        buckets=max(buckets, 0),
        furthest=furthest,
        key="c2p" in kinds,
        query="p2c" in kinds,
        shared=bool(config.get("share_att_key", False)),
        norm="layer_norm" in str(config.get("norm_rel_ebd", "none")).lower().replace(" ", "").split("|"),
    )
    return {"distances": distances, "learned_positions": bool(config.get("position_biased_input", True))}
