"""Learning rates that suit an encoder's size."""

from __future__ import annotations

BASE_SIZE = 85_000_000  # parameters in the layers of BERT base
_BASE_RATE = 5e-5
_EXPONENT = 0.6


def usual_rate(parameters: int) -> float:
    """The highest learning rate of a usual fine-tuning with AdamW, by the number of parameters in the encoder's layers.

    5e-5 at base size (Devlin et al., 2019, take 2e-5 to 5e-5), less for larger encoders, more for smaller ones.
    Rounded to one digit, to 1, 2, 3, 5 or 7.

    parameters: of the layers, without embeddings, which hardly matter here.
    """
    rate = _BASE_RATE * (BASE_SIZE / max(parameters, 1)) ** _EXPONENT
    steps = [float(f"{digit}e{power}") for power in range(-6, -2) for digit in (1, 2, 3, 5, 7)]
    return min(steps, key=lambda step: abs(step / rate - 1))
