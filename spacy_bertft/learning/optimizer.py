"""One step of AdamW over a module: the learning rate of each group, global-norm clip, mean over the examples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

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

    def __init__(self, module: nn.Module, *, tuning: Tuning | None = None, rate_factor: float = 1.0) -> None:
        """rate_factor: the module's learning rate, as a multiple of the one in StepSettings."""
        self.module = module
        self.tuning = tuning or FullTuning()
        self.rate_factor = rate_factor
        self.examples = 0  # whose gradients are, or will be, summed into the next step

    def count(self, n_examples: int) -> None:
        """Add examples whose gradients are, or will be, summed into the next step."""
        self.examples += n_examples

    def step(self, settings: StepSettings) -> None:
        """Take a step if there are gradients."""
        with_gradient = [p for group in self.groups for p in group.parameters if p.grad is not None]
        if with_gradient:
            if self.examples > 1:  # dividing by 1 would read and write every gradient for nothing
                gradients = [p.grad for p in with_gradient if p.grad is not None]
                torch._foreach_div_(gradients, float(self.examples))
            if settings.clip:
                nn.utils.clip_grad_norm_(with_gradient, settings.clip)
            self._step(settings)
            for parameter in with_gradient:  # which a fused step leaves out; engines that copy weights look at it
                increment_version(parameter)
            self.module.zero_grad(set_to_none=True)
        self.examples = 0

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
