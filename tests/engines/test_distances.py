"""Rows of distances: those that transformers computes."""

from __future__ import annotations

import warnings

import pytest
import torch

from spacy_bertft.engines.distances import rows_of
from spacy_bertft.engines.net import Disentangled, DistanceBias

pytestmark = pytest.mark.touches_transformers

DISTANCES = torch.arange(-1000, 1001)


def disentangled(span, buckets, furthest):
    return Disentangled(span, buckets, furthest, key=True, query=True, shared=False, norm=False)


def test_mpnet():
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    expected = MPNetEncoder.relative_position_bucket(DISTANCES)
    assert torch.equal(rows_of(DistanceBias(32), DISTANCES), expected)
    assert set(expected.tolist()) == set(range(32)) - {16}


@pytest.mark.parametrize(("buckets", "furthest"), [(256, 512), (16, 64), (48, 1000), (32, 33)])
def test_deberta_s_buckets(buckets, furthest):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the import under transformers 4.49
        from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    expected = make_log_bucket_position(-DISTANCES, buckets, furthest).long() + buckets
    found = rows_of(disentangled(buckets, buckets, furthest), DISTANCES)
    assert torch.equal(found, expected.clamp(0, 2 * buckets - 1))
    assert found.diff().max() == 0  # the later the key, the lower the row


def test_deberta_without_buckets():
    found = rows_of(disentangled(40, 0, 40), DISTANCES)
    assert found[1000 - 45 : 1000 + 46].tolist() == [79] * 6 + list(range(79, -1, -1)) + [0] * 5
