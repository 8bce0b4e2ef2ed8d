"""Targets of the masked tokens and the losses on them.

A prediction is (B, Q, P): a vector for each decoded token. Pixel targets are made here from the pixels; all
others come with the batch as `targets.<kind>` (B, N, P). The loss is the mean over tokens that were decoded
and hidden from the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from training.models.layout import PixelLayout
from training.models.tokens import cut_patches, take_tokens

if TYPE_CHECKING:
    from preprocessing.targets import TargetConfig

NORM_EPS = 1e-6


def patchify(pixels: Tensor, layout: PixelLayout) -> Tensor:
    """Return the pixel values of every token, (B, N, P), in the model's own order.

    With groups, tokens are group-major and P is that of the largest group: smaller ones end in zeros.
    """
    if pixels.ndim == 5 and layout.frames:
        pixels = pixels[:, :, list(layout.frames)]
    tubelet = 1 if layout.frames else layout.tubelet
    if layout.groups:
        width = layout.width(0)
        parts = [_values(pixels[:, list(g)], layout, tubelet) for g in layout.groups]
        parts = [torch.nn.functional.pad(p, (0, width - p.shape[-1])) for p in parts]
        return torch.cat(parts, dim=1)
    return _values(pixels, layout, tubelet)


def unpatchify(values: Tensor, layout: PixelLayout, shape: Sequence[int]) -> Tensor:
    """Return pixels of `shape` (B, C, H, W) or (B, C, T, H, W) from (B, N, P): the inverse of `patchify`."""
    b, channels = shape[:2]
    frames = 1 if len(shape) == 4 else (len(layout.frames) or shape[2])
    h, w = shape[-2] // layout.patch, shape[-1] // layout.patch
    if layout.groups:
        flat = PixelLayout(patch=layout.patch, channels_last=layout.channels_last)
        pixels = values.new_zeros(b, channels, *shape[-2:])
        for number, group in enumerate(layout.groups):
            part = values[:, number * h * w : (number + 1) * h * w, : flat.width(len(group))]
            pixels[:, list(group)] = unpatchify(part, flat, (b, len(group), *shape[-2:]))
        return pixels
    u = 1 if layout.frames or len(shape) == 4 else layout.tubelet
    p = layout.patch
    if layout.channels_last:
        x = values.reshape(b, frames // u, h, w, u, p, p, channels).permute(0, 7, 1, 4, 2, 5, 3, 6)
    else:
        x = values.reshape(b, frames // u, h, w, channels, u, p, p).permute(0, 4, 1, 5, 2, 6, 3, 7)
    x = x.reshape(b, channels, frames, h * p, w * p)
    return x[:, :, 0] if len(shape) == 4 else x


def normalise_patches(values: Tensor) -> Tensor:
    """Return (..., P) with mean 0 and variance 1 a token: MAE's target, unbiased, eps inside the root."""
    variance, mean = torch.var_mean(values, dim=-1, keepdim=True)
    return (values - mean) / (variance + NORM_EPS) ** 0.5


def normalise_tubes(values: Tensor, channels: int) -> Tensor:
    """Return (..., n*C) normalised per token AND channel: VideoMAE's target, eps outside the root."""
    x = values.unflatten(-1, (-1, channels))
    std, mean = torch.std_mean(x, dim=-2, keepdim=True)
    return ((x - mean) / (std + NORM_EPS)).flatten(-2)


def pixel_targets(pixels: Tensor, layout: PixelLayout, norm: str) -> Tensor:
    """Return the pixel targets (B, N, P) of `pixels` as the network sees them, or of [0, 1] for `videomae`."""
    values = patchify(pixels, layout)
    if norm == "mae" and layout.groups:
        counts = group_counts(layout, values.shape[1], values.device)
        return _normalise_padded(values, counts)
    if norm == "mae":
        return normalise_patches(values)
    if norm == "videomae":
        return normalise_tubes(values, pixels.shape[1])
    if norm != "none":
        raise ValueError(f"target.norm is {norm!r}; it must be none, mae or videomae.")
    return values


def group_counts(layout: PixelLayout, tokens: int, device: torch.device | None = None) -> Tensor:
    """Return how many values of each token (N,) are real; the rest pad up to the largest group."""
    each = tokens // len(layout.groups)
    counts = torch.tensor([len(g) * layout.patch**2 for g in layout.groups], device=device)
    return counts.repeat_interleave(each)


def hidden_weights(visible: Tensor, decoded: Tensor, tokens: int) -> Tensor:
    """Return (B, Q): 1 where a decoded token is hidden from the encoder, else 0."""
    hidden = torch.ones(len(visible), tokens, device=visible.device).scatter_(1, visible, 0.0)
    return hidden.gather(1, decoded)


def masked_mean(errors: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of per-token errors (B, Q) under weights (B, Q), over the whole batch."""
    return (errors * weights).sum() / weights.sum().clamp_min(1.0)


class Objective:
    """The losses of a recipe: a weighted sum over its targets."""

    def __init__(self, targets: Sequence[TargetConfig], layout: PixelLayout) -> None:
        self.targets, self.layout = tuple(targets), layout

    def __call__(
        self, predictions: Mapping[str, Tensor], batch: Mapping[str, Any], inputs: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts by target.

        Args:
            predictions: {target: (B, Q, P)}.
            batch: `pixels` raw, `visible`, `decoded`, and `targets.<kind>`.
            inputs: the pixels as the network saw them.
        """
        visible, decoded = batch["visible"], batch["decoded"]
        total: Tensor = inputs.new_zeros(())
        parts = {}
        for target in self.targets:
            predicted = predictions[target.kind].float()
            full = self.target_values(target, batch, inputs)
            counts = None
            if target.kind == "pixels" and self.layout.groups:
                counts = group_counts(self.layout, full.shape[1], full.device)[decoded]
            errors = token_errors(predicted, take_tokens(full, decoded), counts)
            part = masked_mean(errors, hidden_weights(visible, decoded, full.shape[1]))
            parts[target.kind] = part.detach()
            total = total + target.weight * part
        return total, parts

    def target_values(
        self, target: TargetConfig, batch: Mapping[str, Any], inputs: Tensor
    ) -> Tensor:
        """Return the values (B, N, P) of one target for every token."""
        if target.kind != "pixels":
            return batch[f"targets.{target.kind}"].float()
        if target.norm == "videomae":
            return pixel_targets(batch["pixels"].float() / 255.0, self.layout, "videomae")
        return pixel_targets(inputs, self.layout, target.norm)


def token_errors(predicted: Tensor, wanted: Tensor, counts: Tensor | None = None) -> Tensor:
    """Return the mean squared error of each token (B, Q); `counts` (B, Q) are the real values of padded ones."""
    if counts is None:
        return (predicted - wanted).square().mean(-1)
    real = torch.arange(wanted.shape[-1], device=wanted.device) < counts[..., None]
    return ((predicted - wanted).square() * real).sum(-1) / counts


def _values(pixels: Tensor, layout: PixelLayout, tubelet: int) -> Tensor:
    x = cut_patches(pixels, layout.patch, tubelet)
    x = x.permute(0, 1, 2, 3, 5, 6, 7, 4) if layout.channels_last else x
    return x.flatten(4).flatten(1, 3)


def _normalise_padded(values: Tensor, counts: Tensor) -> Tensor:
    real = (torch.arange(values.shape[-1], device=values.device) < counts[:, None]).float()
    mean = values.sum(-1, keepdim=True) / counts[:, None]
    centred = (values - mean) * real
    variance = centred.square().sum(-1, keepdim=True) / (counts[:, None] - 1)
    return centred / (variance + NORM_EPS) ** 0.5
