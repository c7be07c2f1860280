"""Settings of a distillation. The command line reads them too, so nothing heavy is imported here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spacy_bertft.errors import ConfigError


@dataclass(frozen=True)
class DistillSettings:
    """How much of what teachers say is learned, and in which form.

    weight: share of the loss on the teachers' outputs; the rest is for the head's own loss, on annotations. A text
        without annotation is learned from the teachers alone.
    temperature: divisor of the logits of teachers and student; the loss is multiplied by its square (Hinton et al.,
        2015). 1 changes nothing. Numbers have none.
    hidden: factor of the loss on the encoder's hidden rows: their squared difference from the first teacher's, the mean
        over the width and all subwords. Both encoders need the same tokenizer; if their widths differ, a linear map
        between them is learned.
    cache_mb: MiB of teachers' outputs that are kept; texts beyond it are read by the teachers in every epoch.
    """

    weight: float = 0.9
    temperature: float = 2.0
    hidden: float = 0.0
    cache_mb: int = 1024

    def __post_init__(self) -> None:
        for name, fits, expected in (
            ("weight", 0 < self.weight <= 1, "more than 0 and at most 1"),
            ("temperature", 0 < self.temperature < math.inf, "more than 0; 1 changes nothing"),
            ("hidden", 0 <= self.hidden < math.inf, "at least 0; 0 compares no hidden rows"),
            ("cache_mb", self.cache_mb >= 0, "at least 0"),
        ):
            if not fits:
                raise ConfigError(
                    f"{name} of spacy-bertft.distill.v1 is {getattr(self, name):g}; expected {expected}. Correct it in "
                    "[initialize.before_init], or on the command line."
                )
