"""Tests run in float32 on every CPU, unless they say otherwise, so that they can compare with plain PyTorch.

Imported by conftest.py, and by the code of tests that runs in processes of its own.
"""

from __future__ import annotations

import torch

for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
    setattr(torch.cpu, check, lambda: False)
