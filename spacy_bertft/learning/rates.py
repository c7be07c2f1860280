"""Learning rates that suit an encoder's size."""

from __future__ import annotations

BASE_SIZE = 85_000_000  # parameters in the layers of BERT base
_BASE_RATE = 5e-5
_EXPONENT = 0.5
_FAR = 3.0  # times the usual rate


def usual_rate(parameters: int) -> float:
    """The usual peak learning rate, with warm-up and decay, for fine-tuning an encoder with so many parameters.

    5e-5 at the size of BERT base (2e-5 to 5e-5; Devlin et al., 2019, appendix A.3); otherwise inversely proportional to
    the square root of the size, which lies among the rates for smaller BERTs (3e-5 to 3e-4; Turc et al., 2019), ELECTRA
    small (3e-4) and large (5e-5; Clark et al., 2020, appendix B). Rounded to 1, 2, 3, 5 or 7 times a power of ten.
    benchmarks/accuracy/recipes.py compares it with half and twice the rate.

    parameters: of the layers, without embeddings, which hardly matter here.
    """
    rate = _BASE_RATE * (BASE_SIZE / max(parameters, 1)) ** _EXPONENT
    steps = [float(f"{digit}e{power}") for power in range(-6, -2) for digit in (1, 2, 3, 5, 7)]
    return min(steps, key=lambda step: abs(step / rate - 1))


def too_high(rate: float, *, parameters: int, name: str) -> str | None:
    """What to say of a constant learning rate that is far above the usual one; None if it is not. name: of the encoder.

    At a constant rate, nothing protects the pretrained weights in the first steps, when the heads are still random.
    parameters: as for usual_rate.
    """
    usual = usual_rate(parameters)
    if rate <= _FAR * usual:
        return None
    return (
        f"The encoder {name!r} is trained at a constant learning rate of {rate:g}, without warm-up. Its layers have "
        f"{parameters / 1e6:,.1f} million parameters; expected about {usual:.2g}, warmed up: at {rate / usual:.0f} "
        "times that, an encoder usually forgets what it was pretrained for. A config with a good rate is written by "
        "bertft init TASK --train FILE --dev FILE --encoder NAME --output config.cfg; in this one, set @schedules = "
        f'"spacy-bertft.warmup_decay.v1" and initial_rate = {usual:.2g} in [training.optimizer.learn_rate].'
    )
