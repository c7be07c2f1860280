"""How the families name their settings and weights in transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from spacy_bertft.engines import family_settings

_SETTINGS: Mapping[str, str] = {
    "width": "hidden_size",
    "inner": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "activation": "hidden_act",
    "eps": "layer_norm_eps",
}


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a family's settings and weights, which end in .weight and .bias.

    layer      how the names of a layer's weights begin; {group} and {inner} stand for its numbers
    linears    linear maps in a layer, by fields of Layer; `query_key_value` and `up_gate` are several in one
    norms      norms in a layer, by fields of Layer
    extra      reads the settings that only this family has, as fields of Shape
    padding    the padding id whose successor is the first position; "config": its pad_token_id; None: it begins at 0
    project    the projection of the embeddings; needs_project: whether there always is one
    distances  the table of embeddings or biases of distances; distance_norm: the norm of these embeddings
    """

    layer: str
    linears: Mapping[str, str]
    norms: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=lambda: _SETTINGS)
    eps: float = 1e-12  # if the config has none
    extra: Callable[[Mapping[str, Any]], dict[str, Any] | None] = family_settings.plain
    padding: int | Literal["config"] | None = None
    words: str = "embeddings.word_embeddings"
    positions: str = "embeddings.position_embeddings"
    segments: str | None = "embeddings.token_type_embeddings"
    norm: str = "embeddings.LayerNorm"
    project: str | None = None
    needs_project: bool = False
    final_norm: str | None = None
    distances: str | None = None
    distance_norm: str | None = None


def _bert(**others: Any) -> Names:
    linears = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "out": "attention.output.dense",
        "up": "intermediate.dense",
        "down": "output.dense",
    }
    linears |= others.pop("linears", {})
    norms = others.pop("norms", {"out_norm": "attention.output.LayerNorm", "down_norm": "output.LayerNorm"})
    return Names(layer="encoder.layer.{group}", linears=linears, norms=norms, **others)


_ROBERTA = _bert(padding="config")
_DISTILBERT = Names(
    layer="transformer.layer.{group}",
    linears={
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "out": "attention.out_lin",
        "up": "ffn.lin1",
        "down": "ffn.lin2",
    },
    norms={"out_norm": "sa_layer_norm", "down_norm": "output_layer_norm"},
    settings={
        "width": "dim",
        "inner": "hidden_dim",
        "layers": "n_layers",
        "heads": "n_heads",
        "activation": "activation",
        "eps": "layer_norm_eps",
    },
    extra=family_settings.distilbert,
    segments=None,
)
_ALBERT = Names(
    layer="encoder.albert_layer_groups.{group}.albert_layers.{inner}",
    linears={
        "query": "attention.query",
        "key": "attention.key",
        "value": "attention.value",
        "out": "attention.dense",
        "up": "ffn",
        "down": "ffn_output",
    },
    norms={"out_norm": "attention.LayerNorm", "down_norm": "full_layer_layer_norm"},
    extra=family_settings.albert,
    project="encoder.embedding_hidden_mapping_in",
    needs_project=True,
)
_MPNET = _bert(
    linears={
        "query": "attention.attn.q",
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "out": "attention.attn.o",
    },
    norms={"out_norm": "attention.LayerNorm", "down_norm": "output.LayerNorm"},
    extra=family_settings.mpnet,
    padding=1,  # whatever pad_token_id says
    segments=None,
    distances="encoder.relative_attention_bias",
)
_MODERNBERT = Names(
    layer="layers.{group}",
    linears={"query_key_value": "attn.Wqkv", "out": "attn.Wo", "up_gate": "mlp.Wi", "down": "mlp.Wo"},
    norms={"attention_norm": "attn_norm", "up_norm": "mlp_norm"},
    settings={**_SETTINGS, "activation": "hidden_activation", "eps": "norm_eps"},
    eps=1e-5,
    extra=family_settings.modernbert,
    words="embeddings.tok_embeddings",
    segments=None,
    norm="embeddings.norm",
    final_norm="final_norm",
)
_DEBERTA = _bert(
    linears={
        "query": "attention.self.query_proj",
        "key": "attention.self.key_proj",
        "value": "attention.self.value_proj",
        "position_key": "attention.self.pos_key_proj",
        "position_query": "attention.self.pos_query_proj",
    },
    eps=1e-7,
    extra=family_settings.deberta,
    distances="encoder.rel_embeddings",
    distance_norm="encoder.LayerNorm",
)
FAMILIES: Mapping[str, Names] = {
    "albert": _ALBERT,
    "bert": _bert(),
    "camembert": _ROBERTA,
    "deberta-v2": _DEBERTA,
    "distilbert": _DISTILBERT,
    "electra": _bert(project="embeddings_project"),
    "modernbert": _MODERNBERT,
    "mpnet": _MPNET,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}
