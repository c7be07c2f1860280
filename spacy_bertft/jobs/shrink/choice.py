"""Which layers stay."""

from __future__ import annotations

from dataclasses import dataclass

from spacy_bertft.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """What to keep of an encoder."""

    layers: int | tuple[int, ...] | None = None  # how many, evenly spaced, or which, from 0; None: all


def choose_layers(n_layers: int, plan: Plan) -> tuple[int, ...]:
    """The numbers of the layers that stay, from 0. Raises a ConfigError if they are not among `n_layers`.

    Of a number, evenly spaced ones from the first to the last: 6 of 12 are 0, 2, 4, 7, 9 and 11, those that DistilBERT
    was started from (Sanh et al., 2019). 1 is the first.
    """
    wanted = plan.layers
    if wanted is None:
        return tuple(range(n_layers))
    if isinstance(wanted, int):
        _check(0 < wanted <= n_layers, f"{wanted}", n_layers)
        return tuple(round(place * (n_layers - 1) / max(wanted - 1, 1)) for place in range(wanted))
    listed = ",".join(map(str, wanted))
    _check(bool(wanted) and list(wanted) == sorted({*wanted} & {*range(n_layers)}), listed, n_layers)
    return tuple(wanted)


def _check(fits: bool, found: str, n_layers: int) -> None:
    if not fits:
        raise ConfigError(
            f"layers is {found}, of an encoder with {n_layers}. Expected a number from 1 to {n_layers}, or different "
            f"layers in ascending order, from 0 to {n_layers - 1}, such as 0,2,5."
        )
