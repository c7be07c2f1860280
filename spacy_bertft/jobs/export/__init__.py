"""A pipeline for ONNX Runtime, and how it compares with the one it was made from."""
