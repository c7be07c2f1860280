"""One process; that two take the steps of one is tested with whole runs."""

from __future__ import annotations

import pytest
import torch

from spacy_bertft.jobs.processes import Processes, join_processes

pytestmark = pytest.mark.touches_transformers


def test_without_torchrun_there_is_one(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert join_processes() == Processes(1, 0)
    assert join_processes().is_first
    monkeypatch.setenv("RANK", "1")
    assert not join_processes().is_first


@pytest.mark.parametrize("rank", [0, 1])
def test_one_waits_for_nobody_and_adds_up_nothing(rank):
    alone = Processes(1, rank)
    with alone.first_alone():
        ran = True
    assert ran
    module = torch.nn.Linear(2, 2)
    alone.add_up_gradients(list(module.parameters()))
    assert module.weight.grad is None
    assert alone.sum_of([1.0, 2.0]) == [1, 2]


@pytest.mark.parametrize(("rank", "wanted"), [(0, ["block", "wait"]), (1, ["wait", "block"])])
def test_the_first_runs_a_block_before_the_others(monkeypatch, rank, wanted):
    done = []
    monkeypatch.setattr(torch.distributed, "barrier", lambda: done.append("wait"))
    with Processes(2, rank).first_alone():
        done.append("block")
    assert done == wanted


def test_gradients_are_added_up_where_any_process_has_one(monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(torch.ones_like(tensor)))
    module = torch.nn.Linear(2, 2)
    module.weight.grad = torch.ones(2, 2)
    Processes(2, 1).add_up_gradients(list(module.parameters()))
    assert module.weight.grad.tolist() == [[2, 2], [2, 2]]
    assert module.bias.grad.tolist() == [1, 1]
