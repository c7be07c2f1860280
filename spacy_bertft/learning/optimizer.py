"""One step of AdamW over a module: the learning rate of each group, global-norm clip, mean over the examples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from spacy_bertft.errors import DataError
from spacy_bertft.learning.tuning import FullTuning, ParameterGroup, Tuning


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What one step reads from the training loop's optimizer."""

    learn_rate: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    clip: float  # largest norm of all gradients together; 0: no limit


class ModuleOptimizer:
    """AdamW (Loshchilov & Hutter, 2019) with bias correction over the weights of one module that learn.

    Gradients are summed over the examples of all backward passes since the last step and divided by their number,
    so that a batch gives the same step whole or in parts.
    """

    def __init__(
        self, module: nn.Module, *, tuning: Tuning | None = None, rate_factor: float = 1.0, name: str = ""
    ) -> None:
        """rate_factor: the module's learning rate, as a multiple of the one in StepSettings; name: for messages."""
        self.module = module
        self.tuning = tuning or FullTuning()
        self.rate_factor = rate_factor
        self.name = name
        self.examples = 0  # whose gradients are, or will be, summed into the next step

    def count(self, n_examples: int) -> None:
        """Add examples whose gradients are, or will be, summed into the next step."""
        self.examples += n_examples

    def step(self, settings: StepSettings) -> None:
        """Take a step if there are gradients. A DataError, and no step, if they are no numbers."""
        with_gradient = [p for group in self.groups for p in group.parameters if p.grad is not None]
        if with_gradient:
            gradients = [p.grad for p in with_gradient if p.grad is not None]
            if self.examples > 1:  # dividing by 1 would read and write every gradient for nothing
                torch._foreach_div_(gradients, float(self.examples))
            norm = nn.utils.clip_grad_norm_(with_gradient, settings.clip) if settings.clip else _norm(gradients)
            self._check(float(norm))  # sync
            self._step(settings)
            for parameter in with_gradient:  # which a fused step leaves out; engines that copy weights look at it
                increment_version(parameter)
            self.module.zero_grad(set_to_none=True)
        self.examples = 0

    def _check(self, norm: float) -> None:
        """An error for a norm that tells of gradients that are no numbers. These are dropped."""
        if math.isfinite(norm):
            return
        self.module.zero_grad(set_to_none=True)
        self.examples = 0
        name = repr(self.name) if self.name else "the model"
        raise diverged(f"The norm of the gradients of {name} is {norm}, and its weights were left as they are")

    @cached_property
    def groups(self) -> list[ParameterGroup]:
        """The weights that learn; listed when they are first asked for, since some modules are built late."""
        return self.tuning.groups(self.module) if self.tuning.learns else []

    @cached_property
    def adamw(self) -> torch.optim.AdamW:
        """PyTorch's optimizer, made when it is first asked for. There must be weights that learn."""
        groups = [
            {"params": list(group.parameters), "rate_factor": group.rate_factor, "decays": group.decays}
            for group in self.groups
        ]
        return torch.optim.AdamW(groups, fused=True)

    def moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """AdamW's state of one weight; empty before its first step."""
        return self.adamw.state.get(parameter, {}) if self.groups else {}

    def _step(self, settings: StepSettings) -> None:
        for group in self.adamw.param_groups:
            group["lr"] = settings.learn_rate * self.rate_factor * group["rate_factor"]
            group["betas"] = settings.betas
            group["eps"] = settings.eps
            group["weight_decay"] = settings.weight_decay if group["decays"] else 0.0
        self.adamw.step()


def _norm(gradients: list[Tensor]) -> Tensor:
    norms = [norm.to(gradients[0].device) for norm in torch._foreach_norm(gradients)]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def diverged(found: str) -> DataError:
    """The error for a loss or a gradient that is no number. found: which, and what it is."""
    return DataError(
        f"{found}: training has diverged. Expected a finite number. Lower the learning rate in [training.optimizer] "
        "(2e-5 to 3e-4 is usual), use warm-up, or set grad_clip = 1.0."
    )
