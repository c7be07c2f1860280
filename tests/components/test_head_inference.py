"""What heads compute in numpy is what their torch modules compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spacy_bertft.components.head_inference import hidden_vectors, misfit, outputs, sigmoid, softmax
from spacy_bertft.components.head_modules import HiddenHead, new_linear
from spacy_bertft.components.hidden_layer import HiddenLayer

LAYERS = [
    HiddenLayer(),
    *(HiddenLayer(activation=name) for name in ("tanh", "gelu", "gelu_tanh", "relu")),
    HiddenLayer(activation="gelu", norm_eps=1e-5),
    HiddenLayer(activation="gelu", norm_eps=1e-5, hidden_bias=False),
]


def module_and_weights(layer, *, width=6, n_outputs=3):
    torch.manual_seed(0)
    module = HiddenHead(width, layer)
    module.output = new_linear(width, n_outputs)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module.eval(), {name: tensor.numpy() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_both_give_the_same_numbers(layer, scale):
    module, weights = module_and_weights(layer)
    vectors = (scale * torch.randn(50, 6)).numpy()
    with torch.no_grad():
        expected = module.output(module.hidden(torch.from_numpy(vectors))).numpy()
    found = outputs(weights, hidden_vectors(weights, layer, vectors))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1.0, scale))


def test_no_rows_give_no_logits():
    _, weights = module_and_weights(LAYERS[1])
    nothing = np.zeros((0, 6), dtype=np.float32)
    assert outputs(weights, hidden_vectors(weights, LAYERS[1], nothing)).shape == (0, 3)


def test_weights_may_be_read_only_and_rows_of_a_larger_array():
    module, weights = module_and_weights(LAYERS[0])
    for array in weights.values():
        array.flags.writeable = False
    vectors = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)[:, ::2]
    vectors.flags.writeable = False
    expected = module.output(torch.from_numpy(vectors.copy())).detach().numpy()
    np.testing.assert_allclose(outputs(weights, vectors), expected, rtol=1e-5, atol=1e-5)


def test_probabilities_do_not_overflow():
    logits = np.array([[0.0, 1000.0, -1000.0], [88.0, 89.0, -90.0]], dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        found = softmax(logits), sigmoid(logits)
    tensor = torch.from_numpy(logits)
    np.testing.assert_allclose(found[0], tensor.softmax(dim=1).numpy(), atol=1e-7)
    np.testing.assert_allclose(found[1], tensor.sigmoid().numpy(), atol=1e-7)


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_weights_of_the_same_settings_fit(layer):
    assert misfit(module_and_weights(layer)[1], layer, width=6, n_outputs=3) is None


@pytest.mark.parametrize(
    ("saved", "layer", "n_outputs", "said"),
    [
        (HiddenLayer(), HiddenLayer(), 4, r"output.weight is (3, 6), not (4, 6); output.bias is (3,), not (4,)"),
        (HiddenLayer(), HiddenLayer(activation="relu"), 3, "dense.weight is missing; dense.bias is missing"),
        (HiddenLayer(activation="relu"), HiddenLayer(), 3, "dense.weight is not expected; dense.bias is not expected"),
    ],
)
def test_what_does_not_fit_is_said(saved, layer, n_outputs, said):
    assert misfit(module_and_weights(saved)[1], layer, width=6, n_outputs=n_outputs) == said
