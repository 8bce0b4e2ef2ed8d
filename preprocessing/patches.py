"""Pixels to tokens and back in the orders of each paper, and the norms of pixel targets. Torch, on
any device.

A token holds the values of one patch (or tubelet, or one channel's patch); tokens are in raster
order.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """Return (B, C, H, W) as (B, N, patch * patch * C), values in the order row, column, channel
    (MAE)."""
    b, c, h, w = _whole(pixels, patch)
    split = pixels.reshape(b, c, h, patch, w, patch)
    return split.permute(0, 2, 4, 3, 5, 1).reshape(b, h * w, patch * patch * c)


def unpatchify(tokens: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """Return what `patchify` was given: (B, N, patch * patch * C) to (B, C, H, W)."""
    h, w = grid
    split = tokens.reshape(len(tokens), h, w, patch, patch, -1)
    return split.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), -1, h * patch, w * patch)


def patchify_clip(pixels: Tensor, patch: int, tubelet: int) -> Tensor:
    """Return (B, C, T, H, W) as (B, N, P), values in the order frame, row, column, channel
    (VideoMAE)."""
    b, c, h, w = _whole(pixels, patch)
    t = pixels.shape[2] // tubelet
    split = pixels.reshape(b, c, t, tubelet, h, patch, w, patch)
    return split.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(b, t * h * w, -1)


def unpatchify_clip(tokens: Tensor, patch: int, tubelet: int, grid: tuple[int, int, int]) -> Tensor:
    """Return what `patchify_clip` was given: (B, N, P) to (B, C, T, H, W)."""
    t, h, w = grid
    split = tokens.reshape(len(tokens), t, h, w, tubelet, patch, patch, -1)
    b, c = len(tokens), split.shape[-1]
    return split.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(b, c, t * tubelet, h * patch, w * patch)


def patchify_channel_first(pixels: Tensor, patch: int) -> Tensor:
    """Return (B, C, H, W) as (B, N, C * patch * patch), values in the order channel, row, column
    (SatMAE)."""
    b, c, h, w = _whole(pixels, patch)
    split = pixels.reshape(b, c, h, patch, w, patch)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(b, h * w, c * patch * patch)


def patchify_channels(pixels: Tensor, patch: int) -> Tensor:
    """Return (B, C, H, W) as (B, C * N, patch * patch): a token for each channel's patch,
    channel-major (CA-MAE)."""
    b, c, h, w = _whole(pixels, patch)
    split = pixels.reshape(b, c, h, patch, w, patch)
    return split.permute(0, 1, 2, 4, 3, 5).reshape(b, c * h * w, patch * patch)


def unpatchify_channels(tokens: Tensor, patch: int, grid: tuple[int, int, int]) -> Tensor:
    """Return what `patchify_channels` was given; the grid is (channels, h, w)."""
    c, h, w = grid
    split = tokens.reshape(len(tokens), c, h, w, patch, patch)
    return split.permute(0, 1, 2, 4, 3, 5).reshape(len(tokens), c, h * patch, w * patch)


def normalise_patches(tokens: Tensor) -> Tensor:
    """Return tokens (..., P) with mean 0 and variance 1 over all values of each (MAE): unbiased,
    eps 1e-6.

    It is a layer norm, whose variance is biased: the ratio of the two is in its weight and its eps.
    One pass over the values in place of five.
    """
    count = tokens.shape[-1]
    ratio = (count - 1) / count
    weight = tokens.new_full((count,), ratio**0.5)
    return functional.layer_norm(tokens, (count,), weight, eps=1e-6 * ratio)


def normalise_channels(tokens: Tensor, channels: int) -> Tensor:
    """Return tokens (B, N, values * channels) normalised for each channel (VideoMAE).

    The standard deviation is unbiased and 1e-6 is added to it, not to the variance.
    """
    split = tokens.reshape(*tokens.shape[:-1], -1, channels)
    mean, deviation = split.mean(-2, keepdim=True), split.std(-2, keepdim=True)
    return ((split - mean) / (deviation + 1e-6)).reshape(tokens.shape)


def self_standardise(pixels: Tensor) -> Tensor:
    """Return (B, C, H, W) with mean 0 and variance 1 for each image and channel (microscopy).

    The variance is biased and 1e-5 is added to it. Raw values and values / 255 differ by that 1e-5
    alone.
    """
    variance, mean = pixels.var((-2, -1), correction=0, keepdim=True), pixels.mean((-2, -1), True)
    return (pixels - mean) / (variance + 1e-5) ** 0.5


def _whole(pixels: Tensor, patch: int) -> tuple[int, int, int, int]:
    """Return (B, C, rows, columns) of patches."""
    height, width = pixels.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(
            f"patchify: {height}x{width} px do not divide into patches of {patch} px. "
            "Use a view size that is a multiple of the patch."
        )
    return pixels.shape[0], pixels.shape[1], height // patch, width // patch
