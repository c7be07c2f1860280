"""Learning rates that suit an encoder's size."""

from __future__ import annotations

_BASE_SIZE, _BASE_RATE = 110e6, 5e-5
_POWER = 0.85
_LOWEST, _HIGHEST = 1e-5, 1e-3
_FAR = 3.0  # times the usual rate


def usual_rate(parameters: int) -> float:
    """The usual peak learning rate, with warm-up and decay, for fine-tuning an encoder of this many parameters.

    A power law through the rates that were published for BERT base (110 million, 2e-5 to 5e-5; Devlin et al., 2019,
    appendix A.3) and ELECTRA small (14 million, 3e-4; Clark et al., 2020, appendix B). In between are those for smaller
    BERTs (3e-5 to 3e-4; Turc et al., 2019), above those for BERT and ELECTRA large (335 million, 2e-5 to 5e-5).
    """
    rate: float = _BASE_RATE * (_BASE_SIZE / max(parameters, 1)) ** _POWER
    return min(_HIGHEST, max(_LOWEST, rate))


def too_high(rate: float, *, parameters: int, name: str) -> str | None:
    """What to say of a constant learning rate that is far above the usual one; None if it is not. name: of the encoder.

    At a constant rate, nothing protects the pretrained weights in the first steps, when the heads are still random.
    """
    usual = usual_rate(parameters)
    if rate <= _FAR * usual:
        return None
    return (
        f"The encoder {name!r} is trained at a constant learning rate of {rate:g}, without warm-up. It has "
        f"{parameters / 1e6:,.1f} million parameters; expected about {usual:.2g}, warmed up: at {rate / usual:.0f} "
        "times that, an encoder usually forgets what it was pretrained for. A config with a good rate is written by "
        "bertft init TASK --train FILE --dev FILE --encoder NAME --output config.cfg; in this one, set @schedules = "
        f'"spacy-bertft.warmup_decay.v1" and initial_rate = {usual:.2g} in [training.optimizer.learn_rate].'
    )
