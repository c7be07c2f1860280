"""The processes that torchrun starts, which share each batch."""

from __future__ import annotations

import atexit
import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from spacy_bertft.errors import BertftError

_T = TypeVar("_T")


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

    def sum_of(self, values: Sequence[float]) -> list[float]:
        """Each value, summed over all processes."""
        if self.count == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        with _others_alive():
            torch.distributed.all_reduce(sums)
        return sums.tolist()  # sync

    def add_up_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give each parameter of a module the sum of its gradients in all processes."""
        if self.count > 1:
            summed = self.add_up([parameter.grad for parameter in parameters], parameters)
            for parameter, gradient in zip(parameters, summed, strict=True):
                parameter.grad = gradient

    def add_up(self, gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """Sum gradients over all processes. like: tensors of the same shapes, for those that only others have."""
        there = self.sum_of([float(gradient is not None) for gradient in gradients])
        summed = [
            torch.zeros_like(one) if gradient is None else gradient
            for gradient, one, number in zip(gradients, like, there, strict=True)
            if number
        ]
        if summed:
            flat = torch.cat([gradient.reshape(-1) for gradient in summed])
            with _others_alive():
                torch.distributed.all_reduce(flat)
            parts = torch.split(flat, [gradient.numel() for gradient in summed])
            summed = [part.view_as(gradient) for part, gradient in zip(parts, summed, strict=True)]
        each = iter(summed)
        return [next(each) if number else None for number in there]

    def share(self, value: _T) -> _T:
        """The value that the first process has."""
        if self.count == 1:
            return value
        held = [value]
        with _others_alive():
            torch.distributed.broadcast_object_list(held)
        return held[0]

    def gather(self, value: _T) -> list[_T]:
        """The values of all processes, by rank."""
        if self.count == 1:
            return [value]
        held: list[Any] = [None] * self.count
        with _others_alive():
            torch.distributed.all_gather_object(held, value)
        return held


def join_processes() -> Processes:
    """Connect the processes that torchrun has started; without torchrun, this is the only one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1 and not torch.distributed.is_initialized():
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
            backend = "cpu:gloo,cuda:nccl"
        # Its functions have the group that there is at their import as a default, and would keep it to the very end.
        importlib.import_module("torch.distributed.nn.functional")
        # The others wait while the first one evaluates and saves.
        torch.distributed.init_process_group(backend, timeout=timedelta(hours=12))
        # Otherwise, its threads still run when the process ends, which aborts it now and then.
        atexit.register(_leave)
    return Processes(count, int(os.environ.get("RANK", "0")))


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def _others_alive() -> Iterator[None]:
    """Turn PyTorch's errors of a lost connection into one that says what happened."""
    try:
        yield
    except RuntimeError as error:
        raise BertftError(
            f"The processes of the run could not exchange their gradients: {str(error).splitlines()[0][:200]} Expected "
            "all of them to run to the end. If one has ended, its own message says why. Continue with --resume."
        ) from error
