"""One step of AdamW over a module: parameter groups, global-norm clip, mean over the examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What one step reads from the training loop's optimizer."""

    learn_rate: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    clip: float  # largest norm of all gradients together; 0: no limit


class ModuleOptimizer:
    """AdamW (Loshchilov & Hutter, 2019) with bias correction over the parameters of one module.

    Gradients are summed over the examples of all backward passes since the last step and divided by their number,
    so that a batch gives the same step whole or in parts. Biases and norms (parameters of one dimension) do not decay.
    """

    def __init__(self, module: nn.Module, *, rate_factor: float = 1.0) -> None:
        self.module = module
        self.rate_factor = rate_factor
        self._examples = 0
        self._adamw: torch.optim.AdamW | None = None

    def count(self, n_examples: int) -> None:
        """Add examples whose gradients are, or will be, summed into the next step."""
        self._examples += n_examples

    def step(self, settings: StepSettings) -> None:
        """Take a step if there are gradients."""
        with_gradient = [p for p in self.module.parameters() if p.grad is not None]
        if with_gradient:
            if self._examples > 1:  # dividing by 1 would read and write every gradient for nothing
                gradients = [p.grad for p in with_gradient if p.grad is not None]
                torch._foreach_div_(gradients, float(self._examples))
            if settings.clip:
                nn.utils.clip_grad_norm_(with_gradient, settings.clip)
            self._step(settings)
        self._examples = 0
        self.module.zero_grad(set_to_none=True)

    @property
    def adamw(self) -> torch.optim.AdamW:
        """PyTorch's optimizer, made when it is first asked for."""
        if self._adamw is None:
            self._adamw = torch.optim.AdamW(_groups(self.module), fused=True)
        return self._adamw

    def _step(self, settings: StepSettings) -> None:
        for group in self.adamw.param_groups:
            group["lr"] = settings.learn_rate * self.rate_factor
            group["betas"] = settings.betas
            group["eps"] = settings.eps
            group["weight_decay"] = settings.weight_decay if group["decays"] else 0.0
        self.adamw.step()


def _groups(module: nn.Module) -> list[dict[str, object]]:
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "decays": True},
        {"params": [p for p in parameters if p.ndim < 2], "decays": False},
    ]
    return [group for group in groups if group["params"]]
