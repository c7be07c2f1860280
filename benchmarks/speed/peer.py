"""The settings of spacy-transformers and of spaCy's components that listen to it."""

from __future__ import annotations

from typing import Any


def peer_models(encoder: str) -> dict[str, dict[str, Any]]:
    """The [model] blocks of `transformer`, `ner` and `textcat`."""
    listener = {
        "@architectures": "spacy-transformers.TransformerListener.v1",
        "grad_factor": 1.0,
        "pooling": {"@layers": "reduce_mean.v1"},
    }
    spans = {"@span_getters": "spacy-transformers.strided_spans.v1", "window": 128, "stride": 96}
    model = {
        "@architectures": "spacy-transformers.TransformerModel.v3",
        "name": encoder,
        "tokenizer_config": {"use_fast": True},
        "get_spans": spans,
    }
    parser = {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": "ner",
        "extra_state_tokens": False,
        "hidden_width": 64,
        "maxout_pieces": 2,
        "use_upper": False,
        "nO": None,
        "tok2vec": listener,
    }
    reduction = {f"use_reduce_{how}": how == "mean" for how in ("first", "last", "max", "mean")}
    categoriser = {
        "@architectures": "spacy.TextCatReduce.v1",
        "exclusive_classes": True,
        "nO": None,
        "tok2vec": listener,
        **reduction,
    }
    return {"transformer": model, "ner": parser, "textcat": categoriser}
