"""On a GPU: the same numbers as on a CPU, bfloat16 where it is due, flash attention, dropout that is drawn again."""

from __future__ import annotations

import copy

import pytest
import spacy
import torch
from encoders import CAN_PACK, LONG, MIXED, encoder_of, split, texts_of
from pipelines import TEXTS, blank, examples

from spacy_bertft import compat
from spacy_bertft.components.encoder_architecture import EncoderShim
from spacy_bertft.encoder import encoder as encoder_module

pytestmark = [
    pytest.mark.touches_transformers,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
CUDA = {"device": "cuda"}
FAMILIES = ["bert-uncased", "roberta", "distilbert", "electra", "modernbert"]
SAMPLES = [*MIXED, LONG]


def near(found, expected, tolerance=1e-3):
    torch.testing.assert_close(found.cpu(), expected.cpu(), rtol=tolerance, atol=tolerance)


def backpropagated(encoder, texts, *, seed=0, predict=False):
    """Gradients of one update by parameter, and the most memory that it took."""
    shim = EncoderShim(encoder.settings)
    shim.module = encoder
    encoder.zero_grad()
    torch.manual_seed(seed)
    torch.cuda.reset_peak_memory_stats()
    features, backpropagate = shim.begin_update(texts_of(texts))
    if predict:
        encoder.predict(texts_of(["a dog"]))
    gradient = torch.linspace(-1, 1, features.hidden.numel(), device=features.hidden.device)
    backpropagate(gradient.view(features.hidden.shape))
    peak = torch.cuda.max_memory_allocated()
    return {name: one.grad.clone() for name, one in encoder.named_parameters() if one.grad is not None}, peak


def without_dropout(encoder):
    for module in encoder.modules():
        for name in ("p", "dropout_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return encoder


@pytest.mark.parametrize("batching", ["auto", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_rows_are_those_of_a_cpu(tiny_encoder, family, batching):
    expected = encoder_of(tiny_encoder(family)).predict(texts_of(SAMPLES))
    found = encoder_of(tiny_encoder(family), **CUDA, precision="float32", batching=batching)
    features = found.predict(texts_of(SAMPLES))
    assert features.hidden.is_cuda
    near(features.hidden[features.rows], expected.hidden[expected.rows])


@pytest.mark.parametrize("family", FAMILIES)
def test_prediction_is_in_bfloat16_and_flash_attention_is_called(tiny_encoder, family, monkeypatch):
    monkeypatch.setattr(compat, "has_bfloat16", lambda device: True)
    calls = []
    flash = compat.flash_attention()
    assert flash is not None
    monkeypatch.setattr(compat, "flash_attention", lambda: lambda *a, **k: calls.append(a[0].dtype) or flash(*a, **k))
    exact = encoder_of(tiny_encoder(family)).predict(texts_of(SAMPLES))
    half = encoder_of(tiny_encoder(family), **CUDA)
    features = half.predict(texts_of(SAMPLES))
    assert features.hidden.dtype == torch.float32
    rows, expected = features.hidden[features.rows].cpu(), exact.hidden[exact.rows]
    assert 0 < (rows - expected).norm() / expected.norm() < 0.03
    if family in CAN_PACK and half.model.config.hidden_size // half.model.config.num_attention_heads % 8 == 0:
        assert set(calls) == {torch.bfloat16}
    alone = [half.predict(texts_of([text])) for text in MIXED]
    together = split(features.hidden[features.rows], features.subword_counts)
    for one, many in zip(alone, together, strict=False):
        near(one.hidden[one.rows], many, 0.06)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_a_cpu(tiny_encoder, family):
    found, _ = backpropagated(without_dropout(encoder_of(tiny_encoder(family), **CUDA, precision="float32")), SAMPLES)
    expected, _ = backpropagated(without_dropout(encoder_of(tiny_encoder(family))), SAMPLES)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name].cpu() - gradient).norm() < 1e-3 * gradient.norm() + 1e-3, name


def test_gradients_in_bfloat16_are_float32_and_point_the_same_way(tiny_bert):
    half, _ = backpropagated(without_dropout(encoder_of(tiny_bert, **CUDA, precision="bfloat16")), SAMPLES)
    full, _ = backpropagated(without_dropout(encoder_of(tiny_bert, **CUDA, precision="float32")), SAMPLES)
    assert {one.dtype for one in half.values()} == {torch.float32}
    flat = [torch.cat([one.flatten() for one in gradients.values()]) for gradients in (half, full)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.99


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("batching", ["auto", "padded"])
@pytest.mark.parametrize(("limit", "settings"), [(10, {}), (10**6, {"gradient_checkpointing": True})])
def test_recomputed_activations_have_the_dropout_of_the_first(
    tiny_bert, monkeypatch, limit, settings, batching, precision
):
    how = {**CUDA, "precision": precision, "batching": batching, "batch_subwords": 64}
    expected, _ = backpropagated(encoder_of(tiny_bert, **how), SAMPLES, seed=1)
    other, _ = backpropagated(encoder_of(tiny_bert, **how), SAMPLES, seed=2)
    monkeypatch.setattr(encoder_module, "KEPT_SUBWORDS", limit)
    found, _ = backpropagated(encoder_of(tiny_bert, **how, **settings), SAMPLES, seed=1, predict=True)
    tolerance = 1e-3 if precision == "float32" else 0.05
    name = next(name for name in expected if name.endswith("output.dense.weight"))
    assert (expected[name] - other[name]).norm() > 0.1 * expected[name].norm()
    assert (expected[name] - found[name]).norm() < tolerance * expected[name].norm()


def test_gradient_checkpointing_takes_less_memory(tiny_bert):
    texts = [LONG] * 400
    _, kept = backpropagated(encoder_of(tiny_bert, **CUDA, batch_subwords=10**6), texts[:100])
    _, less = backpropagated(
        encoder_of(tiny_bert, **CUDA, batch_subwords=10**6, gradient_checkpointing=True), texts[:100]
    )
    assert less < kept


@pytest.mark.parametrize("half", [True, False])
def test_a_pipeline_is_trained_saved_and_read_on_a_cpu(tiny_bert, tmp_path, monkeypatch, half):
    monkeypatch.setattr(compat, "has_bfloat16", lambda device: half)
    torch.manual_seed(0)
    nlp = blank(tiny_bert, device="auto")
    optimizer = nlp.initialize(lambda: examples(nlp))
    optimizer.learn_rate = 3e-3
    losses = [sum(nlp.update(examples(nlp), sgd=optimizer).values()) for _ in range(60)]
    assert losses[-1] < losses[0] / 4
    encoder = nlp.get_pipe("encoder").encoder
    assert encoder.device.type == "cuda"
    assert {one.dtype for one in encoder.parameters()} == {torch.float32}
    nlp.to_disk(tmp_path / "model")
    on_gpu = spacy.load(tmp_path / "model")
    on_cpu = spacy.load(tmp_path / "model", config={"components.encoder.model.device": "cpu"})
    for text in TEXTS:
        one, other = on_gpu(text), on_cpu(text)
        assert [(ent.text, ent.label_) for ent in one.ents] == [(ent.text, ent.label_) for ent in other.ents]
        assert one.cats == pytest.approx(other.cats, abs=0.03)


def test_a_run_restored_in_the_middle_ends_with_the_same_weights(tiny_bert):
    def step(nlp, optimizer, count):
        for _ in range(count):
            nlp.update(examples(nlp), sgd=optimizer)
        return {name: copy.deepcopy(pipe.training_state()) for name, pipe in nlp.components}

    def fresh():
        nlp = blank(tiny_bert, device="cuda")
        optimizer = nlp.initialize(lambda: examples(nlp))
        optimizer.learn_rate = 1e-3
        return nlp, optimizer

    torch.manual_seed(0)
    first = fresh()
    middle = step(*first, 3)
    random = torch.cuda.get_rng_state(), torch.get_rng_state()
    expected = step(*first, 3)
    nlp, optimizer = fresh()
    for name, pipe in nlp.components:
        pipe.load_training_state(middle[name])
    torch.cuda.set_rng_state(random[0])
    torch.set_rng_state(random[1])
    found = step(nlp, optimizer, 3)
    # Nearly all: sums on a GPU have no fixed order, and AdamW's first steps are long for the smallest gradients too.
    for name, state in expected.items():
        for key, tensor in state.items():
            if key.startswith("weights/"):
                same = (found[name][key] - tensor).abs() < 1e-4
                assert same.float().mean() > 0.9, key
