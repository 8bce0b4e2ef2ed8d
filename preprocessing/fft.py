"""Fourier targets of microscopy fields: magnitudes of the spectrum, and their form for storage.

The magnitudes are those of the un-normalised forward transform of each channel, whose pixels were
given mean 0 and variance 1 first. A field is real, so half of its spectrum tells all of it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_EPS = 1e-5
_STEPS = 65535


def standardise(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return (..., H, W) with mean 0 and variance 1 for each channel (biased, eps 1e-5).

    uint8 counts as [0, 1]: it is divided by 255 first. The numpy twin of `self_standardise`.
    """
    x = pixels.astype(np.float64) / (255 if pixels.dtype == np.uint8 else 1)
    mean = x.mean((-2, -1), keepdims=True)
    variance = x.var((-2, -1), keepdims=True)
    return np.asarray((x - mean) / np.sqrt(variance + _EPS), dtype=np.float32)


def fft_magnitudes(image: NDArray[Any]) -> NDArray[np.float32]:
    """Return |FFT2| of (..., H, W): the half spectrum (..., H, W // 2 + 1), float32."""
    return np.abs(np.fft.rfft2(image)).astype(np.float32)


def fft_targets(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the Fourier target of a viewed field: (C, H, W) -> (C, H, W // 2 + 1) float32."""
    return fft_magnitudes(standardise(pixels))


def full_spectrum(half: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return the whole magnitudes (..., H, W) of a real image from their half (..., H, W//2+1)."""
    mirrored = half[..., 1 : (width + 1) // 2]
    rows = (-np.arange(half.shape[-2])) % half.shape[-2]
    return np.concatenate([half, mirrored[..., rows, ::-1]], axis=-1)


def fft_to_uint16(magnitudes: NDArray[np.float32], pixels: int) -> NDArray[np.uint16]:
    """Return magnitudes in equal steps of log(1 + m): each off by at most `fft_bound` * (1 + m).

    Args:
        pixels: H * W. No magnitude of a standardised channel is larger.
    """
    scaled = np.log1p(magnitudes.astype(np.float64)) * (_STEPS / math.log1p(pixels))
    return np.rint(np.clip(scaled, 0, _STEPS)).astype(np.uint16)


def uint16_to_fft(stored: NDArray[np.uint16], pixels: int) -> NDArray[np.float32]:
    """Return stored magnitudes."""
    scaled = stored.astype(np.float64) * (math.log1p(pixels) / _STEPS)
    return np.expm1(scaled).astype(np.float32)


def fft_bound(pixels: int) -> float:
    """Return the largest |stored - computed| / (1 + computed) of an image of so many pixels."""
    return math.expm1(math.log1p(pixels) / _STEPS / 2) + 1e-6
