"""How the families' models in transformers name the weights of their heads, and what these heads compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from spacy_bertft.components.hidden_layer import Activation, HiddenLayer
from spacy_bertft.errors import ConfigError

# The endings of transformers' classes that have a head of ours.
Kind = Literal["TokenClassification", "SequenceClassification", "QuestionAnswering"]
# The values of transformers' `classifier_pooling`, and ours.
POOLINGS: Mapping[str, str] = {"cls": "cls", "mean": "mean_all"}
# transformers' names of the activations that our heads have.
_ACTIVATIONS: Mapping[str, Activation] = {
    "tanh": "tanh",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True, slots=True)
class HeadNames:
    """A head in transformers: names of its weights, and where its settings are.

    output              the linear layer that gives the logits
    dense, norm         the dense layer before it, and the LayerNorm between them; None: there is none
    activation          what follows the dense layer, if that can't be set
    activation_setting  the setting in config.json that names it otherwise
    pooling_setting     … that says what represents a text: "cls" or "mean"; None: always the first subword
    """

    output: str
    dense: str | None = None
    norm: str | None = None
    activation: Activation | None = None
    activation_setting: str | None = None
    pooling_setting: str | None = None

    def parts(self) -> dict[str, str]:
        """Our name of each layer and theirs."""
        found = {"output": self.output, "dense": self.dense, "norm": self.norm}
        return {ours: theirs for ours, theirs in found.items() if theirs is not None}

    def hidden_layer(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of our hidden layer that say the same. Raises a ConfigError if there are none."""
        activation = self.activation
        if self.activation_setting is not None:
            named = config.get(self.activation_setting, "gelu")  # the default of all families that can set it
            if named not in _ACTIVATIONS:
                raise ConfigError(
                    f"The head of the checkpoint has the activation {named!r} ({self.activation_setting} in its "
                    f"config.json). Expected one of {', '.join(_ACTIVATIONS)}, which our heads have. This checkpoint "
                    "can't be imported with its head."
                )
            activation = _ACTIVATIONS[named]
        if self.norm is None:
            return {"activation": activation, "norm_eps": None, "hidden_bias": True}
        biases = {name: bool(config.get(name, False)) for name in (_DENSE_BIAS, _NORM_BIAS)}
        if len(set(biases.values())) > 1:
            found = ", ".join(f"{name} = {str(value).lower()}" for name, value in biases.items())
            raise ConfigError(
                f"The head of the checkpoint has biases in one of its layers only ({found} in its config.json). "
                "Expected biases in both or in none, as in our heads. This checkpoint can't be imported with its head."
            )
        eps = float(config.get(_NORM_EPS, 1e-5))
        return {"activation": activation, "norm_eps": eps, "hidden_bias": biases[_DENSE_BIAS]}

    def settings_for(self, layer: HiddenLayer, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """Changes of a config.json that give transformers' head this hidden layer; None if no setting does."""
        changes: dict[str, Any] = {}
        if self.activation_setting is not None and layer.activation is not None:
            named = config.get(self.activation_setting, "gelu")
            same = _ACTIVATIONS.get(named) == layer.activation
            theirs = next(name for name, ours in _ACTIVATIONS.items() if ours == layer.activation)
            changes[self.activation_setting] = named if same else theirs
        if self.norm is not None:
            changes[_DENSE_BIAS] = layer.hidden_bias
        try:
            wanted = self.hidden_layer({**config, **changes})
        except ConfigError:
            return None
        ours = {field.name: getattr(layer, field.name) for field in fields(HiddenLayer)}
        return changes if wanted == ours else None


# The settings of ModernBERT, the only family whose heads have a LayerNorm.
_DENSE_BIAS, _NORM_BIAS, _NORM_EPS = "classifier_bias", "norm_bias", "norm_eps"


@dataclass(frozen=True, slots=True)
class Family:
    """The models of a family.

    stem    how the names of its classes begin
    prefix  of the encoder's weights
    heads   by kind
    """

    stem: str
    prefix: str
    heads: Mapping[Kind, HeadNames]


def _family(
    stem: str, prefix: str, sequence: HeadNames, token: HeadNames | None = None, answer: HeadNames | None = None
) -> Family:
    heads: dict[Kind, HeadNames] = {
        "TokenClassification": token or HeadNames("classifier"),
        "SequenceClassification": sequence,
        "QuestionAnswering": answer or HeadNames("qa_outputs"),
    }
    return Family(stem, prefix, heads)


_ROBERTA = HeadNames("classifier.out_proj", "classifier.dense", activation="tanh")
_MODERNBERT = HeadNames("classifier", "head.dense", "head.norm", activation_setting="classifier_activation")
_MODERNBERT_POOLED = HeadNames(
    "classifier", "head.dense", "head.norm", activation_setting="classifier_activation",
    pooling_setting="classifier_pooling",
)  # fmt: skip
_DEBERTA = HeadNames("classifier", "pooler.dense", activation_setting="pooler_hidden_act")
FAMILIES: Mapping[str, Family] = {
    "albert": _family("Albert", "albert", HeadNames("classifier", "albert.pooler", activation="tanh")),
    "bert": _family("Bert", "bert", HeadNames("classifier", "bert.pooler.dense", activation="tanh")),
    "camembert": _family("Camembert", "roberta", _ROBERTA),
    "deberta": _family("Deberta", "deberta", _DEBERTA),
    "deberta-v2": _family("DebertaV2", "deberta", _DEBERTA),
    "distilbert": _family("DistilBert", "distilbert", HeadNames("classifier", "pre_classifier", activation="relu")),
    "electra": _family("Electra", "electra", HeadNames("classifier.out_proj", "classifier.dense", activation="gelu")),
    "modernbert": _family("ModernBert", "model", _MODERNBERT_POOLED, _MODERNBERT, _MODERNBERT),
    "mpnet": _family("MPNet", "mpnet", _ROBERTA),
    "roberta": _family("Roberta", "roberta", _ROBERTA),
    "xlm-roberta": _family("XLMRoberta", "roberta", _ROBERTA),
}


def family_of(config: Mapping[str, Any], what: str) -> Family:
    """The family that a config.json names. what: whose config it is, for the message."""
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ConfigError(
            f"{what} is of the family {name!r}. Expected one whose heads are known here: "
            f"{', '.join(sorted(FAMILIES))}. Its encoder may still be of use: name it in a bertft_encoder, and train "
            "new heads."
        )
    return FAMILIES[name]
