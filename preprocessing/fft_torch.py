"""The torch twin of preprocessing.fft, for batches that live on a device."""

from __future__ import annotations

import torch
from torch import Tensor

from preprocessing.patches import self_standardise


def fft_magnitudes_torch(image: Tensor) -> Tensor:
    """Return |FFT2| of (..., H, W): the half spectrum (..., H, W // 2 + 1), float32."""
    return torch.abs(torch.fft.rfft2(image.float()))


def fft_targets_torch(pixels: Tensor) -> Tensor:
    """Return the Fourier target of viewed fields: (B, C, H, W) -> (B, C, H, W // 2 + 1)."""
    scaled = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
    return fft_magnitudes_torch(self_standardise(scaled))
