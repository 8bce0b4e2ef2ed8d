"""Pixel targets: the values of each token in its model's own order, and how they are normalised."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from preprocessing.patches import normalise_patches
from training.models.layout import PixelLayout
from training.models.tokens import cut_patches, pick_patches

NORM_EPS = 1e-6


def patchify(pixels: Tensor, layout: PixelLayout, ids: Tensor | None = None) -> Tensor:
    """Return the pixel values of every token, (B, N, P), in the model's own order.

    With groups, tokens are group-major and P is that of the largest group: smaller ones end in
    zeros.

    Args:
        ids: without groups: (B, Q) the tokens that are wanted; None wants all.
    """
    if pixels.ndim == 5 and layout.frames:
        pixels = pixels[:, :, list(layout.frames)]
    tubelet = 1 if layout.frames else layout.tubelet
    if layout.groups:
        width = layout.width(0)
        parts = [_values(pixels[:, list(g)], layout, tubelet) for g in layout.groups]
        parts = [torch.nn.functional.pad(p, (0, width - p.shape[-1])) for p in parts]
        return torch.cat(parts, dim=1)
    return _values(pixels, layout, tubelet, ids)


def unpatchify(values: Tensor, layout: PixelLayout, shape: Sequence[int]) -> Tensor:
    """Return pixels of `shape` (B, C, H, W) or (B, C, T, H, W) from (B, N, P): the inverse of
    `patchify`.
    """
    b, channels = shape[:2]
    u = 1 if layout.frames else layout.tubelet
    frames = u if len(shape) == 4 else (len(layout.frames) or shape[2])
    h, w = shape[-2] // layout.patch, shape[-1] // layout.patch
    if layout.groups:
        flat = PixelLayout(patch=layout.patch, channels_last=layout.channels_last)
        pixels = values.new_zeros(b, channels, *shape[-2:])
        for number, group in enumerate(layout.groups):
            part = values[:, number * h * w : (number + 1) * h * w, : flat.width(len(group))]
            pixels[:, list(group)] = unpatchify(part, flat, (b, len(group), *shape[-2:]))
        return pixels
    p = layout.patch
    if layout.channels_last:
        x = values.reshape(b, frames // u, h, w, u, p, p, channels).permute(0, 7, 1, 4, 2, 5, 3, 6)
    else:
        x = values.reshape(b, frames // u, h, w, channels, u, p, p).permute(0, 4, 1, 5, 2, 6, 3, 7)
    x = x.reshape(b, channels, frames, h * p, w * p)
    return x[:, :, 0] if len(shape) == 4 else x


def patch_moments(
    values: Tensor, layout: PixelLayout, norm: str, channels: int
) -> tuple[Tensor, Tensor]:
    """Return the mean and the scale by which the pixel targets (B, N, P) are normalised, as shapes
    that fit them.

    Args:
        values: what `patchify` returns.
        norm: none; mae: over all values of a token, unbiased, eps inside the root; videomae: for
            each channel of a token, unbiased, eps outside the root.
        channels: of the sample.
    """
    if norm == "none":
        return values.new_zeros(()), values.new_ones(())
    if norm == "videomae":
        count = values.shape[-1] // channels
        mean = (_channel_sums(values, layout, channels) / count).repeat(1, 1, count)
        squares = _channel_sums((values - mean).square(), layout, channels) / (count - 1)
        return mean, (squares.sqrt() + NORM_EPS).repeat(1, 1, count)
    if norm != "mae":
        raise ValueError(f"target.norm is {norm!r}; it must be none, mae or videomae.")
    if layout.groups:
        return _group_moments(values, layout)
    variance, mean = torch.var_mean(values, -1, keepdim=True)
    return mean, (variance + NORM_EPS).sqrt()


def _channel_sums(values: Tensor, layout: PixelLayout, channels: int) -> Tensor:
    """Return the sum of each channel (B, N, C) of tokens (B, N, P) whose channel comes last: over
    rows first, which are long enough to add as vectors.
    """
    rows = values.unflatten(-1, (-1, layout.patch * channels)).sum(-2)
    return rows.unflatten(-1, (-1, channels)).sum(-2)


def pixel_targets(
    pixels: Tensor, layout: PixelLayout, norm: str, ids: Tensor | None = None
) -> Tensor:
    """Return the pixel targets (B, N, P) of `pixels` as the network sees them, or of [0, 1] for
    `videomae`; without groups only those of the tokens `ids` (B, Q), if given.
    """
    values = patchify(pixels, layout, ids)
    if norm == "mae" and not layout.groups:
        return normalise_patches(values)
    mean, scale = patch_moments(values, layout, norm, pixels.shape[1])
    targets = values if norm == "none" else (values - mean).div_(scale)
    return targets * real_values(layout, values) if layout.groups else targets


def real_values(layout: PixelLayout, values: Tensor) -> Tensor:
    """Return (N, P): 1 where a value of a group's token is real, 0 where it pads up to the largest
    group.
    """
    counts = [len(group) * layout.patch**2 for group in layout.groups]
    each = torch.arange(values.shape[-1], device=values.device) < torch.tensor(
        counts, device=values.device
    ).unsqueeze(1)
    return each.repeat_interleave(values.shape[1] // len(counts), dim=0).to(values.dtype)


def _group_moments(values: Tensor, layout: PixelLayout) -> tuple[Tensor, Tensor]:
    groups = len(layout.groups)
    x = values.unflatten(1, (groups, -1))
    real = real_values(layout, values).unflatten(0, (groups, -1))
    axes = (1, 3) if layout.joint_norm else (3,)
    counts = real.expand_as(x).sum(axes, keepdim=True)
    mean = x.sum(axes, keepdim=True) / counts
    variance = ((x - mean) * real).square().sum(axes, keepdim=True) / (counts - 1)
    shape = (-1, groups, x.shape[2], 1)
    mean, scale = mean.expand(shape), (variance + NORM_EPS).sqrt().expand(shape)
    return mean.flatten(1, 2), scale.flatten(1, 2)


def token_count(layout: PixelLayout, shape: Sequence[int]) -> int:
    """Return the tokens of samples (B, C, [T,] H, W), band groups aside."""
    frames = shape[2] // layout.tubelet if len(shape) == 5 else 1
    return frames * (shape[-2] // layout.patch) * (shape[-1] // layout.patch)


def _values(pixels: Tensor, layout: PixelLayout, tubelet: int, ids: Tensor | None = None) -> Tensor:
    x = cut_patches(pixels, layout.patch, tubelet)
    return pick_patches(x.permute(0, 1, 2, 3, 5, 6, 7, 4) if layout.channels_last else x, ids)
