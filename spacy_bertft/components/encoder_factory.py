"""`bertft_encoder`: the factory of the encoder component."""

from __future__ import annotations

from typing import Any
from weakref import ref

from spacy.language import Language
from thinc.api import Model

from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.components.requirements import require
from spacy_bertft.learning.tuning import Tuning


@Language.factory(
    "bertft_encoder",
    assigns=["doc.tensor"],
    default_config={
        "model": {"@architectures": "spacy-bertft.Encoder.v1", "name": "bert-base-cased"},
        "keep_features": False,
        "set_tensor": False,
        "learn_rate_factor": 1.0,
        "tuning": {"@misc": "spacy-bertft.FullTuning.v1"},
    },
)
def make_encoder(
    nlp: Language,
    name: str,
    model: Model[Any, Any],
    keep_features: bool,
    set_tensor: bool,
    learn_rate_factor: float,
    tuning: Tuning,
) -> EncoderPipe:
    """Create the encoder component.

    keep_features: keep the features of a Doc for its lifetime, not only until its last head has read them.
    set_tensor: set doc.tensor to the tokens' vectors, from which doc.vector and similarities are computed.
    learn_rate_factor: the encoder's learning rate, as a multiple of the optimizer's.
    tuning: which weights are trained: spacy-bertft.FullTuning.v1 or spacy-bertft.FrozenTuning.v1.
    """
    require(nlp, "onnx" if model.attrs["settings"].backend == "onnxruntime" else "train")
    pipe = EncoderPipe(
        nlp.vocab,
        model,
        name,
        keep_features=keep_features,
        set_tensor=set_tensor,
        learn_rate_factor=learn_rate_factor,
        tuning=tuning,
    )
    pipe.nlp = ref(nlp)
    return pipe
