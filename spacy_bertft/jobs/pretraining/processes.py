"""The processes that torchrun starts, which share each batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Processes:
    """All processes of a run, as one of them sees them."""

    count: int
    rank: int  # of this one, from 0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Run the block in the first process, then in the others."""
        if self.count > 1 and not self.is_first:
            torch.distributed.barrier()
        yield
        if self.count > 1 and self.is_first:
            torch.distributed.barrier()

    def add_up(self, sums: Tensor, module: nn.Module) -> None:
        """Sum numbers and a module's gradients over all processes, in place."""
        if self.count == 1:
            return
        torch.distributed.all_reduce(sums)
        for parameter in module.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)


def join_processes() -> Processes:
    """Connect the processes that torchrun has started; without torchrun, this is the only one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Processes(count, int(os.environ.get("RANK", "0")))
