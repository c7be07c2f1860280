"""Export of a pipeline for ONNX Runtime, and a comparison with the original."""
