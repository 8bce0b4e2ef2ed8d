"""Orders of values in tokens, and the norms of targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from preprocessing.patches import (
    normalise_patches,
    patchify,
    patchify_channels,
    self_standardise,
    unpatchify,
    unpatchify_channels,
)

Read = Callable[[str], dict[str, NDArray[Any]]]


def test_mae_patches_and_loss(golden: Read) -> None:
    z = golden("mae_norm_pix_loss")
    images = torch.from_numpy(z["imgs"])
    patch = round((z["patches"].shape[2] / images.shape[1]) ** 0.5)
    tokens = patchify(images, patch)
    np.testing.assert_array_equal(tokens.numpy(), z["patches"])
    grid = (images.shape[2] // patch, images.shape[3] // patch)
    np.testing.assert_array_equal(unpatchify(tokens, patch, grid).numpy(), z["unpatchified"])
    for target, name in ((tokens, "raw"), (normalise_patches(tokens), "norm")):
        error = ((z["pred"] - target.numpy()) ** 2).mean(-1)
        np.testing.assert_allclose(error, z[f"per_patch_{name}"], rtol=1e-4)
        loss = (error * z["mask"]).sum() / z["mask"].sum()
        np.testing.assert_allclose(loss, z[f"loss_{name}"], rtol=1e-5)


def test_microscopy_standardisation_and_tokens(golden: Read) -> None:
    z = golden("microscopy_fft_loss")
    standardised = self_standardise(torch.from_numpy(z["pixels_u8"]).float() / 255)
    np.testing.assert_allclose(standardised.numpy(), z["standardised"], atol=1e-5)
    recon = torch.from_numpy(z["recon"])
    channels = recon.shape[1]
    patch = round(z["tokens_ca"].shape[2] ** 0.5)
    # The file does not say which picture its tokens show; it is one of these two.
    assert any(
        np.allclose(patchify(x, patch).numpy(), z["tokens_std"], atol=1e-5)
        and np.allclose(patchify_channels(x, patch).numpy(), z["tokens_ca"], atol=1e-5)
        for x in (recon, torch.from_numpy(z["standardised"]))
    )
    grid = (channels, recon.shape[2] // patch, recon.shape[3] // patch)
    tokens = patchify_channels(recon, patch)
    gap = np.abs(unpatchify_channels(tokens, patch, grid).numpy() - z["recon"]).max()
    assert gap == z["unflatten_ok_ca"]
    tokens = patchify(recon, patch)
    gap = np.abs(unpatchify(tokens, patch, grid[1:]).numpy() - z["recon"]).max()
    assert gap == z["unflatten_ok_std"]
