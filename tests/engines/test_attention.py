"""Attention over windows side by side, against softmax attention written out for each window alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from encoders import CAN_PACK, LONG, MIXED, TRANSFORMERS_5, assert_near, encoder_of, plain_forward, split, texts_of
from tiny import PACKED
from torch import nn

from spacy_bertft import compat
from spacy_bertft.engines import attention, choose
from spacy_bertft.engines.attention import groups_of, packed_attention, runs_of

pytestmark = pytest.mark.touches_transformers

HEADS, SIZE = 2, 8
WINDOWS = ([1], [7], [4, 4, 4], [9, 5, 5, 2, 1, 1], [40, 40, 24, 23, 23, 7, 6])


def states_of(lengths):
    """Random query, key and value. (1, H, N, D/H) each."""
    generator = torch.Generator().manual_seed(sum(lengths))
    shape = (1, HEADS, sum(lengths), SIZE)
    return [torch.randn(shape, generator=generator).requires_grad_() for _ in range(3)]


def packed(query, key, value, lengths, **settings):
    bounds = torch.tensor(np.append(0, np.cumsum(lengths)), dtype=torch.int32)
    groups = groups_of(np.array(lengths, dtype=np.int64), query.device)
    settings = {"scaling": SIZE**-0.5, "window_groups": groups, "window_bounds": bounds} | settings
    mixed, weights = packed_attention(nn.Identity(), query, key, value, None, **settings)
    assert weights is None
    return mixed


def written_out(query, key, value, lengths, *, scaling=SIZE**-0.5, sliding_window=None):
    """softmax(Q Kᵀ · scaling) V of each window by itself. -> (1, N, H, D/H)."""
    rows = []
    for of_window in zip(*(torch.split(states[0], lengths, dim=1) for states in (query, key, value)), strict=True):
        q, k, v = of_window  # (H, length, D/H)
        scores = torch.einsum("hqd,hkd->hqk", q, k) * scaling
        place = torch.arange(q.shape[1])
        if sliding_window is not None:
            far = (place[:, None] - place[None, :]).abs() >= sliding_window
            scores = scores.masked_fill(far, -torch.inf)
        rows.append(torch.einsum("hqk,hkd->qhd", scores.softmax(dim=-1), v))
    return torch.cat(rows)[None]


@pytest.mark.parametrize(
    ("lengths", "runs"),
    [([], []), ([3], [(1, 3)]), ([7, 7, 5], [(2, 7), (1, 5)]), ([9, 2, 2, 2, 1], [(1, 9), (3, 2), (1, 1)])],
)
def test_neighbours_of_one_length_are_a_run(lengths, runs):
    assert runs_of(np.array(lengths, dtype=np.int64)) == runs


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([], []),
        ([3], [(1, 3, False)]),
        ([7, 7, 5], [(3, 7, True)]),
        ([40, 24, 23, 23], [(2, 40, True), (2, 23, False)]),
        ([512, 512, 384, 383, 16, 1], [(3, 512, True), (1, 383, False), (2, 16, True)]),
    ],
)
def test_windows_of_similar_length_are_a_group(lengths, groups):
    found = groups_of(np.array(lengths, dtype=np.int64), torch.device("cpu"))
    assert [(group.windows, group.length, group.mask is not None) for group in found] == groups
    assert sum(group.rows for group in found) == sum(lengths)


@pytest.mark.parametrize("lengths", WINDOWS, ids=str)
def test_each_window_attends_to_itself_alone(lengths):
    states = states_of(lengths)
    found = packed(*states, lengths)
    assert found.shape == (1, sum(lengths), HEADS, SIZE)
    torch.testing.assert_close(found, written_out(*states, lengths))


@pytest.mark.parametrize("scaling", [1.0, 0.01])
def test_scores_are_scaled_as_asked_for(scaling):
    states = states_of([5, 3])
    torch.testing.assert_close(packed(*states, [5, 3], scaling=scaling), written_out(*states, [5, 3], scaling=scaling))


@pytest.mark.parametrize("reach", [1, 2, 5, 9, 100])
def test_a_sliding_window_cuts_off_what_is_far(reach):
    lengths = [9, 5, 5, 1]
    states = states_of(lengths)
    found = packed(*states, lengths, sliding_window=reach)
    torch.testing.assert_close(found, written_out(*states, lengths, sliding_window=reach))


@pytest.mark.parametrize("settings", [{}, {"sliding_window": 2}], ids=str)
@pytest.mark.parametrize("lengths", WINDOWS, ids=str)
def test_gradients_are_those_of_attention_written_out(lengths, settings):
    states = states_of(lengths)
    weights = torch.arange(float(sum(lengths) * HEADS * SIZE)).view(1, sum(lengths), HEADS, SIZE).cos()
    found, expected = (
        torch.autograd.grad((attend(*states, lengths, **settings) * weights).sum(), states)
        for attend in (packed, written_out)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("settings", [{}, {"sliding_window": 2}], ids=str)
def test_dropout_leaves_the_mean_as_it_is(settings):
    """A row of it is a mean of values with random weights: over many windows alike the weights of attention."""
    torch.manual_seed(0)
    copies = 4000
    states = states_of([3])
    many = [state.detach().repeat(1, 1, copies, 1) for state in states]
    found = packed(*many, [3] * copies, dropout=0.3, **settings).view(copies, 3, HEADS, SIZE)
    expected = written_out(*states, [3], **settings)[0]
    assert not torch.equal(found[0], found[1])
    assert (found.mean(0) - expected).abs().max() < 0.1
    # As often as asked for, the first row of a window that attends to itself alone is dropped.
    alone = packed(*(state[:, :, :copies] for state in many), [1] * copies, dropout=0.3)
    assert (alone == 0).all(dim=-1).float().mean() == pytest.approx(0.3, abs=0.03)


@pytest.mark.skipif(not CAN_PACK, reason="nothing is packed under transformers 4")
@pytest.mark.parametrize("family", ["bert-uncased", "modernbert"])
def test_attention_with_dropout_is_attention(tiny_encoder, family, monkeypatch):
    encoder = encoder_of(tiny_encoder(family))
    texts = texts_of([*MIXED, " ".join(MIXED) * 4])
    expected = encoder(texts).hidden
    plain = attention.packed_attention

    def with_dropout(*args, **settings):
        mixed, _ = plain(*args, **{**settings, "dropout": 0.5})
        return mixed / 2, None  # nothing is dropped below, so all is twice as large

    monkeypatch.setattr(attention, "drop", lambda values, probability: values)
    compat.use_attention(encoder.model, "bertft_packed_dropping", with_dropout)
    found = encoder(texts).hidden
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    half = encoder_of(tiny_encoder(family), precision="bfloat16")
    compat.use_attention(half.model, "bertft_packed_dropping", with_dropout)
    assert 1e-5 < (half(texts).hidden - expected).abs().max() < 0.1
    gradients = [
        torch.autograd.grad(hidden.square().sum(), encoder.parameters(), allow_unused=True)
        for hidden in (found, expected)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


# --- flash attention, which runs on a GPU alone


def exact_flash(query, key, value, starts, key_starts, longest, *rest):
    """What PyTorch's kernel for GPUs computes, written out for the CPU. query, key, value: (N, H, D/H)."""
    _, causal, scale, (left, right) = rest[:4]
    assert torch.equal(starts, key_starts)
    assert starts.dtype == torch.int32
    assert not causal
    assert longest == torch.diff(starts).max()
    mixed = torch.empty_like(query)
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        scores = torch.einsum("qhd,khd->hqk", query[start:end], key[start:end]) * scale
        ahead = torch.arange(end - start) - torch.arange(end - start)[:, None]
        far = ((left >= 0) & (ahead < -left)) | ((right >= 0) & (ahead > right))
        weights = scores.masked_fill(far, -torch.inf).softmax(dim=-1)
        mixed[start:end] = torch.einsum("hqk,khd->qhd", weights, value[start:end])
    return mixed, query.new_empty(query.shape[1], len(query)), torch.zeros(2, dtype=torch.uint64)


@pytest.mark.skipif(not TRANSFORMERS_5, reason="nothing is packed under transformers 4")
@pytest.mark.skipif(compat.flash_attention() is None, reason="this PyTorch has no flash attention over unlike lengths")
@pytest.mark.parametrize("family", PACKED)
def test_flash_attention_is_asked_for_the_same_numbers(tiny_encoder, family, monkeypatch):
    # Its kernel runs on a GPU alone; here it is replaced, but not PyTorch's function around it.
    calls = []

    def counted(*args):
        calls.append(len(args[0]))
        return exact_flash(*args)

    torch.library.register_kernel("torch_attn::_varlen_attn", "cpu", counted)
    flash = compat.flash_attention()
    monkeypatch.setattr(attention, "_flash_attention", lambda value, dropout: flash if dropout == 0 else None)
    monkeypatch.setattr(choose, "_make_fused_training", lambda encoder, half: None)
    folder = tiny_encoder(family)
    features = encoder_of(folder)(texts_of([*MIXED, LONG]))  # with gradients: transformers' own model
    expected = plain_forward(folder, MIXED)
    for rows, text in zip(split(features.hidden[features.rows], features.subword_counts), expected, strict=False):
        assert_near(rows, text[1:-1])
    monkeypatch.undo()
    assert_near(features.hidden, encoder_of(folder)(texts_of([*MIXED, LONG])).hidden)
    assert sum(calls) == len(features.hidden) * encoder_of(folder).model.config.num_hidden_layers


@pytest.mark.skipif(compat.flash_attention() is None, reason="this PyTorch has no flash attention over unlike lengths")
@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({}, True),
        ({"dtype": torch.float16}, True),
        ({"dtype": torch.float32}, False),
        ({"is_cuda": False}, False),
        ({"shape": (1, 2, 9, 256)}, False),
        ({"shape": (1, 2, 9, 36)}, False),
        ({"dropout": 0.1}, False),
        ({"capability": (7, 5)}, False),
        ({"built": False}, False),
    ],
)
def test_when_flash_attention_is_asked_for(change, taken, monkeypatch):
    asked = {"is_cuda": True, "dtype": torch.bfloat16, "shape": (1, 2, 9, 64), "device": torch.device("cuda")} | change
    dropout = asked.pop("dropout", 0.0)
    capability, built = asked.pop("capability", (8, 0)), asked.pop("built", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: built)
    assert (attention._flash_attention(SimpleNamespace(**asked), dropout) is not None) is taken
