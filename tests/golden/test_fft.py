"""Fourier targets of microscopy against the reference; numpy and torch versions.

The file holds the loss, not the target; `|abs(FFT2(recon)) - target|` must be what it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from preprocessing.fft import (
    fft_bound,
    fft_magnitudes,
    fft_targets,
    fft_to_uint16,
    full_spectrum,
    standardise,
    uint16_to_fft,
)
from preprocessing.fft_torch import fft_magnitudes_torch, fft_targets_torch

Read = Callable[[str], dict[str, NDArray[Any]]]
Targets = Callable[[NDArray[Any]], NDArray[np.float32]]


def targets_numpy(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the targets of (B, C, H, W) by the numpy version."""
    return np.stack([fft_targets(image) for image in pixels])


def targets_torch(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the same by the torch version."""
    return fft_targets_torch(torch.from_numpy(pixels)).numpy()


def targets_stored(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the same, stored and read again."""
    size = pixels.shape[-1] ** 2
    return uint16_to_fft(fft_to_uint16(targets_numpy(pixels), size), size)


BOTH = pytest.mark.parametrize("targets", [targets_numpy, targets_torch])


@BOTH
def test_fourier_targets(golden: Read, targets: Targets) -> None:
    z = golden("microscopy_fft_loss")
    check_loss(z, targets(z["pixels_u8"]), 1e-4, 1e-3)


def test_stored_fourier_targets_stay_within_their_bound(golden: Read) -> None:
    z = golden("microscopy_fft_loss")
    pixels = z["pixels_u8"]
    exact, stored = targets_numpy(pixels), targets_stored(pixels)
    bound = fft_bound(pixels.shape[-1] ** 2)
    assert (np.abs(stored - exact) <= bound * (1 + exact)).all()
    check_loss(z, stored, 1e-3, bound * float(1 + exact.max()))


def check_loss(
    z: dict[str, NDArray[Any]], wanted: NDArray[np.float32], rtol: float, atol: float
) -> None:
    """Check the L1 and L2 differences of magnitudes that the file holds."""
    width = z["recon"].shape[-1]
    found = full_spectrum(fft_magnitudes(z["recon"]), width) - full_spectrum(wanted, width)
    channels = z["fft_l1_4d"].shape[1]
    np.testing.assert_allclose(np.abs(found)[:, :channels], z["fft_l1_4d"], rtol=rtol, atol=atol)
    np.testing.assert_allclose(np.abs(found).mean(), z["fft_l1_4d_mean"], rtol=rtol)
    if rtol <= 1e-4:
        squares = z["fft_l2_4d"]
        np.testing.assert_allclose((found**2)[:, :channels], squares, rtol=1e-3, atol=1e-2)


def test_standardised_by_numpy(golden: Read) -> None:
    z = golden("microscopy_fft_loss")
    np.testing.assert_allclose(standardise(z["pixels_u8"]), z["standardised"], atol=1e-5)


def test_magnitudes_of_both_versions(golden: Read) -> None:
    image = golden("microscopy_fft_loss")["standardised"]
    full = np.abs(np.fft.fft2(image.astype(np.float64)))
    for half in (fft_magnitudes(image), fft_magnitudes_torch(torch.from_numpy(image)).numpy()):
        np.testing.assert_allclose(full_spectrum(half, image.shape[-1]), full, rtol=1e-4, atol=1e-4)
