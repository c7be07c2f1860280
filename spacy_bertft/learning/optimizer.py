"""AdamW for one module: learning rates by group, clipping by global norm, gradients averaged over the examples."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from spacy_bertft.errors import diverged
from spacy_bertft.learning.averages import Averages
from spacy_bertft.learning.step_settings import StepSettings
from spacy_bertft.learning.tuning import FullTuning, ParameterGroup, Tuning

_LAST = 2**62  # an epoch after all others


class ModuleOptimizer:
    """AdamW (Loshchilov & Hutter, 2019) with bias correction for the trainable weights of one module.

    Gradients are summed over the examples of all backward passes since the last step and divided by their number,
    so that a batch gives the same step whether it is processed whole or in parts.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        tuning: Tuning | None = None,
        rate_factor: float = 1.0,
        examples_per_epoch: int | None = None,
        name: str = "",
    ) -> None:
        """rate_factor: the module's learning rate, as a multiple of the one in StepSettings; name: for messages.

        examples_per_epoch: for a tuning that counts epochs; None: its parameters are all trained from the start.
        """
        self.module = module
        self.tuning = tuning or FullTuning()
        self.rate_factor = rate_factor
        self.examples_per_epoch = examples_per_epoch
        self.name = name
        self.examples = 0  # whose gradients are, or will be, summed into the next step
        self.steps = 0  # taken so far
        self.examples_seen = 0  # in all steps
        self.averages = Averages()  # empty unless the settings of a step ask for them
        self._held: tuple[nn.Parameter, ...] = ()  # get no gradient for now
        self._held_at: int | None = None
        self._tables: dict[nn.Parameter, Tensor] = {}  # what the gradients of embedding tables are collected in

    def count(self, n_examples: int) -> None:
        """Add examples whose gradients are, or will be, summed into the next step."""
        self.examples += n_examples
        self.examples_seen += n_examples

    def begin(self) -> bool:
        """Before a forward pass: let only those parameters get gradients that are trained now. Whether it looked."""
        now = self._now()
        if now == self._held_at:
            return False
        self.release()
        active = {id(p) for group in self.groups if group.start <= now for p in group.parameters}
        self._held = tuple(p for p in self.module.parameters() if p.requires_grad and id(p) not in active)
        self._held_at = now
        for parameter in self._held:
            parameter.requires_grad_(False)
        for module in self.module.modules():
            if isinstance(module, nn.Embedding):
                module.sparse = module.weight.device.type == "cpu"  # see `collect`
        return True

    def collect(self) -> None:
        """After a backward pass: turn gradients of single rows of an embedding table into those of the whole table.

        A new table of zeros in each backward pass would cost more time than AdamW's step on it, mostly for getting its
        memory from the system.
        """
        for parameter in (parameter for group in self.groups for parameter in group.parameters):
            rows = parameter.grad
            if rows is not None and rows.is_sparse:
                table = self._tables.get(parameter)
                table = self._tables[parameter] = torch.zeros_like(parameter) if table is None else table.zero_()
                parameter.grad = table.add_(rows)

    def _now(self) -> int:
        """The step, or the epoch."""
        if self.tuning.unit == "steps":
            return self.steps if any(group.start for group in self.groups) else 0
        return self.examples_seen // self.examples_per_epoch if self.examples_per_epoch else _LAST

    def release(self) -> None:
        """Let the parameters get gradients again that `begin` excluded."""
        for parameter in self._held:
            parameter.requires_grad_()
        self._held, self._held_at = (), None

    def step(self, settings: StepSettings) -> float | None:
        """Take a step if there are gradients. Returns their norm before clipping, or None.

        Raises a DataError, without a step, if they are NaN or infinite.
        """
        found = None
        self.collect()  # of a backward pass that PyTorch's own function has started
        with_gradient = [p for group in self.groups for p in group.parameters if p.grad is not None]
        if with_gradient:
            gradients = [p.grad for p in with_gradient if p.grad is not None]
            found = float(_norm(gradients)) / max(1, self.examples)  # sync
            self._check(found)
            self._step(settings, gradients, found)
            for parameter in with_gradient:  # a fused step doesn't; engines that copy weights need it
                increment_version(parameter)
            if settings.averages:
                self.averages.add(with_gradient)
            self.module.zero_grad(set_to_none=True)
            self.steps += 1
        self.examples = 0
        return found

    def _check(self, norm: float) -> None:
        """Drop the gradients and raise a DataError if their norm is NaN or infinite."""
        if math.isfinite(norm):
            return
        self.module.zero_grad(set_to_none=True)
        self.examples = 0
        name = repr(self.name) if self.name else "the model"
        raise diverged(f"The norm of the gradients of {name} is {norm}, and its weights were left as they are")

    @cached_property
    def groups(self) -> list[ParameterGroup]:
        """The trainable weights, listed on first use, because some modules are built late."""
        if not self.tuning.learns:
            return []
        self.tuning.prepare(self.module)
        return self.tuning.groups(self.module)

    @cached_property
    def adamw(self) -> torch.optim.AdamW:
        """PyTorch's optimizer, created on first use. There must be weights to train."""
        groups = [
            {"params": list(group.parameters), "rate_factor": group.rate_factor, "decays": group.decays}
            for group in self.groups
        ]
        return torch.optim.AdamW(groups, fused=True)

    def moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """AdamW's state of one weight; empty before its first step."""
        return self.adamw.state.get(parameter, {}) if self.groups else {}

    def _step(self, settings: StepSettings, gradients: list[Tensor], norm: float) -> None:
        """Divide the sums of gradients by the number of examples, clip their mean, whose norm is given, and step."""
        divisor = max(1, self.examples) * (max(1.0, norm / settings.clip) if settings.clip else 1.0)
        if divisor != 1 and gradients[0].device.type != "cpu":
            torch._foreach_div_(gradients, divisor)
        # On a CPU, the fused step divides while it reads the gradients: it is bound by the memory.
        scale = torch.tensor(divisor) if gradients[0].device.type == "cpu" else None
        self.adamw.grad_scale = scale  # type: ignore[attr-defined]  # as torch's GradScaler sets it
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
