"""The settings of one optimizer step, read from thinc's optimizer. Without torch."""

from __future__ import annotations

from dataclasses import dataclass

from thinc.api import Optimizer

from spacy_bertft.errors import ConfigError


@dataclass(frozen=True, slots=True)
class StepSettings:
    """Settings of one step, read from the training loop's optimizer."""

    learn_rate: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    clip: float  # largest global norm of the gradients; 0: no limit
    averages: bool = False  # keep moving averages of the weights


# What spaCy's default optimizer has beside its learning rate and betas.
DEFAULTS = StepSettings(learn_rate=0.0, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8, clip=1.0)


def read_settings(optimizer: Optimizer) -> StepSettings:
    """Read a step's settings from thinc's optimizer. Raises a ConfigError for settings that are not supported."""
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(
            f"The optimizer is a {type(optimizer).__name__}; expected a thinc.api.Optimizer. Pass sgd = "
            "nlp.create_optimizer(), nlp.initialize()'s result, or one from [training.optimizer]."
        )
    for found, problem, fix in (
        (optimizer.use_radam, "is RAdam", "use_radam = false"),
        (
            bool(optimizer.L2) and not optimizer.L2_is_weight_decay,
            "adds L2 to the gradients",
            "L2_is_weight_decay = true",
        ),
        (not (optimizer.b1 > 0 and optimizer.b2 > 0), "is plain SGD", '@optimizers = "Adam.v1"'),
    ):
        if found:
            raise ConfigError(
                f"The optimizer {problem}, which a fine-tuned encoder and its heads don't support: they use AdamW. "
                f"Set {fix} in [training.optimizer]."
            )
    return StepSettings(
        learn_rate=float(optimizer.learn_rate),
        weight_decay=float(optimizer.L2),
        betas=(float(optimizer.b1), float(optimizer.b2)),
        eps=float(optimizer.eps),
        clip=float(optimizer.grad_clip),
        averages=optimizer.averages is not None,
    )
