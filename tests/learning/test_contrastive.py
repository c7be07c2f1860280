from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from spacy_bertft.learning.classes import Classes
from spacy_bertft.learning.contrastive import shared_classes, supervised_contrastive
from spacy_bertft.learning.losses import Targets


def targets(kind, values):
    values = torch.tensor(values)
    return Targets(kind, values, torch.ones(len(values), dtype=torch.bool))


def test_rows_of_one_class_have_it_in_common():
    found = shared_classes(targets("exclusive", [0, 2, 0]), 3)
    assert found.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_rows_of_no_class_have_nothing_in_common():
    """Texts of the unknown category: their target is the uniform distribution."""
    found = shared_classes(targets("exclusive", [[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]]), 2)
    assert found.tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_rows_of_the_class_for_none_have_nothing_in_common():
    """Tokens outside entities."""
    found = targets("exclusive", [0, 1, 0, 1])
    classes = Classes(("O", "I-PER"), none="O")
    assert shared_classes(found, 2).tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]] * 2
    assert shared_classes(replace(found, classes=classes), 2).tolist() == [[0, 0, 0, 0], [0, 1, 0, 1]] * 2


def test_of_several_labels_the_shared_part_counts():
    found = shared_classes(targets("independent", [[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]), 3)
    assert found[0].tolist() == pytest.approx([1, 1 / 3, 1])


def test_the_loss_is_that_of_khosla_et_al():
    """Equation 2, computed vector by vector."""
    torch.manual_seed(0)
    vectors, classes, temperature = torch.randn(6, 4), [0, 0, 1, 1, 1, 2], 0.2
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    expected = []
    for i, own in enumerate(classes):
        others = [j for j in range(6) if j != i]
        same = [j for j in others if classes[j] == own]
        if same:
            whole = sum(math.exp(unit[i] @ unit[j] / temperature) for j in others)
            expected.append(-sum(math.log(math.exp(unit[i] @ unit[j] / temperature) / whole) for j in same) / len(same))
    found = supervised_contrastive(vectors, shared_classes(targets("exclusive", classes), 3), temperature=temperature)
    assert len(expected) == 5
    assert float(found) == pytest.approx(sum(expected) / 5, rel=1e-5)


def test_its_gradient_brings_vectors_of_one_class_together():
    torch.manual_seed(0)
    vectors = torch.randn(8, 3, requires_grad=True)
    in_common = shared_classes(targets("exclusive", [0, 1] * 4), 2)
    optimizer = torch.optim.SGD([vectors], lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        supervised_contrastive(vectors, in_common, temperature=0.5).backward()
        optimizer.step()
    cosines = torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=2)
    assert cosines[in_common == 1].min() > 0.9
    assert cosines[in_common == 0].max() < -0.5


def test_without_a_pair_there_is_no_loss_and_no_gradient():
    vectors = torch.randn(3, 2, requires_grad=True)
    loss = supervised_contrastive(vectors, torch.eye(3), temperature=0.1)
    loss.backward()
    assert loss.item() == 0
    assert not vectors.grad.any()
