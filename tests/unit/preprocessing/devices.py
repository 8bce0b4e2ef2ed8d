"""The devices that tests of device code run on: the CPU, and a GPU where there is one."""

from __future__ import annotations

import pytest
import torch

NEEDS_CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)]
