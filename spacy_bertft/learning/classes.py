"""The classes that logits are for: their counts in the training data, and the weights and biases that follow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from spacy_bertft.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

# None: all targets count the same. "balanced": the classes count the same, however frequent they are. "effective": in
# between, see `_of_counts`. A table: the weights of the classes named in it; others have 1.
Weighting = Literal["balanced", "effective"] | dict[str, float] | None
_BETA = 0.999  # of the effective numbers


@dataclass(frozen=True, slots=True)
class Classes:
    """The C classes, or labels, that the columns of logits are for.

    names       in the order of the logits
    counts      how many targets of the training data are of each class; how many texts have each label
    totals      how many targets are annotated for it; of exclusive classes, the sum of all counts
    none        the class of targets that have none of the labels, as tokens outside entities; None: there is no such

    Counts need not be whole numbers: a target of probability 0.3 counts 0.3. They are None if unknown.
    """

    names: tuple[str, ...]
    counts: tuple[float, ...] | None = None
    totals: tuple[float, ...] | None = None
    none: str | None = None

    @classmethod
    def exclusive(cls, names: Sequence[str], statistics: Mapping[str, Any], shared: str | None = None) -> Classes:
        """Classes of which each target has one. statistics: with "counts" by name, as `Task.prepare` found them.

        shared: a name whose targets count for all classes in equal parts.
        """
        found = statistics.get("counts")
        if found is None:
            return cls(tuple(names))
        part = found.get(shared, 0.0) / len(names)
        counts = [float(found.get(name, 0.0)) + part for name in names]
        return cls(tuple(names), tuple(counts), (sum(counts),) * len(counts))

    @classmethod
    def independent(cls, names: Sequence[str], statistics: Mapping[str, Any]) -> Classes:
        """Labels that hold or don't. statistics: with "counts" and "annotated" by name, as above."""
        if "counts" not in statistics:
            return cls(tuple(names))
        counts, totals = ([float(statistics[key].get(name, 0.0)) for name in names] for key in ("counts", "annotated"))
        return cls(tuple(names), tuple(counts), tuple(totals))

    def log_odds(self) -> Tensor:
        """The logit of each label's share, (C,); 0 for a label without annotation."""
        import torch

        return torch.tensor([math.log(share / (1 - share)) for share in self._shares()])

    def log_shares(self) -> Tensor:
        """The logarithm of each class's share, less their mean, (C,); the softmax doesn't depend on the mean."""
        import torch

        logs = torch.tensor([math.log(share) for share in self._shares()])
        return logs - logs.mean()

    def _shares(self) -> list[float]:
        """The share of each class, at least half a target away from 0 and from 1: neither has finite log-odds."""
        if self.counts is None or self.totals is None:
            return [0.5] * len(self.names)
        half = [0.5 / max(1.0, total) for total in self.totals]
        pairs = zip(self.counts, self.totals, half, strict=True)
        return [min(max(count / total, edge), 1 - edge) if total else 0.5 for count, total, edge in pairs]


def class_weights(weighting: Weighting, classes: Classes | None, like: Tensor) -> Tensor:
    """The weight of each class's targets, (C,); on average over the training targets 1, unless from a table.

    like: a tensor of the wanted device and dtype.
    """
    classes = _named(classes)
    if isinstance(weighting, dict):
        weights = _of_table(weighting, classes)
    else:
        weights = _of_counts(weighting, _counted(classes)[0])
    return weights.to(like)


def label_weights(weighting: Weighting, classes: Classes | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """For independent labels, the factor of each label's positive term, and of its whole loss. Both (C,).

    The first is what torch calls pos_weight: with "balanced", the number of texts without the label for each one with
    it. The second makes the average weight of the label's training targets 1; with a table it is 1 itself.
    """
    import torch

    classes = _named(classes)
    if isinstance(weighting, dict):
        positive = _of_table(weighting, classes)
        return positive.to(like), torch.ones_like(positive).to(like)
    counts, totals = _counted(classes)
    holds, fails = _of_counts(weighting, torch.stack([counts, (totals - counts).clamp(min=0.0)]))
    return (holds / fails).to(like), fails.to(like)


def _of_counts(weighting: Weighting, counts: Tensor) -> Tensor:
    """Weights for alternatives with these counts, (A, …), in the first dimension; 1 for those with the count 0.

    "balanced": inversely proportional to the counts. "effective": to the effective numbers of targets, which grow more
    slowly than the counts and stay below 1,000 (Cui et al., 2019, Class-balanced loss based on effective number of
    samples, with beta 0.999). Both are scaled so that the average over all targets is 1.
    """
    import torch

    numbers = -torch.expm1(counts * math.log(_BETA)) / (1 - _BETA) if weighting == "effective" else counts
    weights = (1 / numbers).masked_fill(counts == 0, 0.0)
    weights = weights * counts.sum(dim=0) / (weights * counts).sum(dim=0)
    return weights.masked_fill(counts == 0, 1.0)


def _of_table(table: Mapping[str, float], classes: Classes) -> Tensor:
    unknown = sorted(set(table) - set(classes.names))
    if unknown:
        raise ConfigError(
            f"class_weights names {', '.join(map(repr, unknown))}, which the head doesn't have. Expected some of: "
            f"{', '.join(classes.names)}. Correct the names in the block of the head's loss."
        )
    import torch

    return torch.tensor([table.get(name, 1.0) for name in classes.names], dtype=torch.float64)


def _named(classes: Classes | None) -> Classes:
    if classes is None:
        raise ConfigError(
            "class_weights is set, but the targets of this head have no classes of their own: it chooses among the "
            "places of a text, or its Task names none. Expected a head with labels, such as bertft_textcat. Leave "
            "class_weights out (null)."
        )
    return classes


def _counted(classes: Classes) -> tuple[Tensor, Tensor]:
    """Counts and totals, (C,) each."""
    if classes.counts is None or classes.totals is None:
        raise ConfigError(
            "class_weights is to follow the counts of the labels, but the head knows none: it was initialised by an "
            "earlier version. Expected counts saved with the head. Initialise it anew, or set class_weights to a table "
            "with a weight for each label."
        )
    import torch

    return torch.tensor(classes.counts, dtype=torch.float64), torch.tensor(classes.totals, dtype=torch.float64)
