"""Products in int8: what is stored, and that no row depends on the others. How close they are: test_onnx.py."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from encoders import KNOWN, LONG, MIXED, encoder_of, exported, net_of, rows_of, smoothing_of, sums_of_pairs

from spacy_bertft.encoder.loading import load_folder
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.engines.int8 import PAIR_LIMIT
from spacy_bertft.engines.onnx_graph import build

pytestmark = pytest.mark.touches_transformers


def test_all_products_of_the_layers_are_in_int8(tiny_bert):
    encoder = encoder_of(tiny_bert)
    model = onnx.load_from_string(build(net_of(encoder), smoothing_of(encoder)).tobytes())
    onnx.checker.check_model(model)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    products = [constants[node.input[1]] for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) == 6 * len(net_of(encoder).layers)
    for weight in products:
        assert weight.dtype == np.int8
        assert sums_of_pairs(weight).max() <= PAIR_LIMIT
    assert constants["words"].dtype == np.int8
    assert not {"Gemm", "DynamicQuantizeMatMul"} & {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("family", KNOWN)
@pytest.mark.parametrize("budget", [1, 50])
def test_a_text_alone_has_the_values_that_it_has_in_a_batch(tiny_encoder, tmp_path, family, budget):
    whole = exported(encoder_of(tiny_encoder(family)), tmp_path, int8=True)
    few = load_folder(tmp_path, EncoderSettings(backend="onnxruntime", batch_subwords=budget)).eval()
    texts = [*MIXED, LONG]
    torch.testing.assert_close(rows_of(few, texts), rows_of(whole, texts), rtol=0, atol=1e-4)
