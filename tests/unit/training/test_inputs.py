"""Inputs of the network are new tensors, whatever the samples are stored as."""

from __future__ import annotations

import pytest
import torch

from training.inputs import InputNorm

STATS = {"mean": [3.0, 4.0, 5.0], "variance": [1.0, 4.0, 9.0]}


@pytest.mark.parametrize("kind", ["imagenet", "unit", "stats", "stretch", "self"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pixels_stay_as_they_are(kind: str, dtype: torch.dtype) -> None:
    """Targets and pictures read them after the inputs were made."""
    pixels = torch.arange(2 * 3 * 4 * 4, dtype=dtype).reshape(2, 3, 4, 4)
    before = pixels.clone()
    inputs = InputNorm(kind, 3, STATS)(pixels)
    assert torch.equal(pixels, before)
    assert inputs.dtype == torch.float32 and not torch.equal(inputs, before.float())
