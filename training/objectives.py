"""Targets of the masked tokens and the losses on them.

A prediction is (B, Q, P): a vector for each decoded token. Pixel targets are made here from the
pixels; all others come with the batch as `targets.<kind>` (B, N, P). The loss is the mean over
tokens that were decoded and hidden from the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from preprocessing.patches import normalise_patches
from preprocessing.targets import SCALE_SHARES
from training.models.layout import PixelLayout
from training.models.tokens import cut_patches, pick_patches, take_tokens
from training.seen_targets import seen_targets

if TYPE_CHECKING:
    from preprocessing.targets import TargetConfig

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
    # Two passes: torch.var goes value by value on a CPU, five times as long as these sums.
    mean = values.mean(-1, keepdim=True)
    far = values - mean
    variance = torch.linalg.vecdot(far, far) / (values.shape[-1] - 1)
    return mean, (variance + NORM_EPS).sqrt()[..., None]


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


def hidden_weights(visible: Tensor, decoded: Tensor, tokens: int) -> Tensor:
    """Return (B, Q): 1 where a decoded token is hidden from the encoder, else 0."""
    hidden = torch.ones(len(visible), tokens, device=visible.device).scatter_(1, visible, 0.0)
    return hidden.gather(1, decoded)


def masked_mean(errors: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of per-token errors (B, Q) under weights (B, Q), over the whole batch."""
    return (errors * weights).sum() / weights.sum().clamp_min(1.0)


class Objective:
    """The losses of a recipe: a weighted sum over its targets."""

    def __init__(
        self,
        targets: Sequence[TargetConfig],
        layout: PixelLayout,
        bands: Sequence[str] = (),
        levels: int = 0,
    ) -> None:
        """Bands are the names of the channels, levels the steps of the inputs from 0 to 1, if any;
        targets made from the inputs need them.
        """
        self.targets, self.layout, self.bands, self.levels = tuple(targets), layout, bands, levels

    def __call__(
        self, predictions: Mapping[str, Tensor], batch: Mapping[str, Any], inputs: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts by target.

        Args:
            predictions: {target: (B, Q, P)}.
            batch: `pixels` raw, `visible`, `decoded`, and `targets.<kind>`.
            inputs: the pixels as the network saw them.
        """
        total: Tensor = inputs.new_zeros(())
        parts: dict[str, Tensor] = {}
        for target in self.targets:
            predicted = predictions[target.kind].float()
            if target.kind == "label":
                part = label_loss(predicted, batch["targets.label"])
                parts["label"] = part.detach()
            else:
                part = self._tokens(target, predicted, batch, inputs, parts)
            total = total + target.weight * part
        return total, parts

    def _tokens(
        self,
        target: TargetConfig,
        predicted: Tensor,
        batch: Mapping[str, Any],
        inputs: Tensor,
        parts: dict[str, Tensor],
    ) -> Tensor:
        """Return the loss of a target of tokens, and note it among the parts."""
        visible, decoded = batch["visible"], batch["decoded"]
        if target.kind == "pixels" and not (self.layout.groups or target.fourier):
            wanted = self._pixels(target, batch, inputs, decoded)
            weights = hidden_weights(visible, decoded, _token_count(self.layout, inputs.shape))
            part = masked_mean(token_errors(predicted, wanted), weights)
            parts["pixels"] = part.detach()
            return part
        full = self.target_values(target, batch, inputs)
        real = None
        if target.kind == "pixels" and self.layout.groups:
            real = real_values(self.layout, full)[decoded]
        wanted = take_tokens(full, decoded)
        errors = token_errors(predicted, wanted, real)
        if target.kind == "hog_scales":
            errors = scale_errors(predicted, wanted)
        part = masked_mean(errors, hidden_weights(visible, decoded, full.shape[1]))
        parts[target.kind] = part.detach()
        if not target.fourier:
            return part
        made = full.scatter(1, decoded[..., None].expand_as(predicted), predicted)
        spectrum = fourier_images(
            *(unpatchify(x, self.layout, inputs.shape) for x in (made, full))
        ).mean()
        parts["fourier"] = spectrum.detach()
        return (1 - target.fourier) * part + target.fourier * spectrum

    def target_values(
        self, target: TargetConfig, batch: Mapping[str, Any], inputs: Tensor
    ) -> Tensor:
        """Return the values (B, N, P) of one target for every token."""
        if target.kind != "pixels":
            if target.source == "inputs":
                values = seen_targets(target, inputs, self.layout.patch, self.bands, self.levels)
            else:
                values = batch[f"targets.{target.kind}"].float()
            return normalise_patches(values) if target.norm == "mae" else values
        return self._pixels(target, batch, inputs)

    def _pixels(
        self,
        target: TargetConfig,
        batch: Mapping[str, Any],
        inputs: Tensor,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Return the pixel targets of every token, or of those that `ids` names."""
        seen = batch["pixels"].float() / 255.0 if target.norm == "videomae" else inputs
        return pixel_targets(seen, self.layout, target.norm, ids)


def label_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean cross-entropy of (B, classes) over the samples that have a label.

    Args:
        wanted: (B, classes) shares that sum to 1; zeros where there is no label.
    """
    labelled = wanted.sum(-1)
    errors = -(wanted * predicted.log_softmax(-1)).sum(-1)
    return errors.sum() / labelled.sum().clamp_min(1.0)


def token_errors(predicted: Tensor, wanted: Tensor, real: Tensor | None = None) -> Tensor:
    """Return the mean squared error of each token (B, Q); `real` (B, Q, P) is 0 where a token is
    padded.
    """
    far = predicted - wanted
    if real is None:
        return torch.linalg.vecdot(far, far) / far.shape[-1]
    return (far.square() * real).sum(-1) / real.sum(-1)


def scale_errors(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Return the error (B, Q) of each token's LocalMIM target (B, Q, P), summed over its scales.

    A masked mean of it is the paper's loss: a cell of 2 x 2 tokens then weighs by how many of them
    are hidden.
    """
    shares = [share * wanted.shape[-1] // sum(SCALE_SHARES) for share in SCALE_SHARES]
    scales = (predicted - wanted).square().split(shares, dim=-1)
    return torch.stack([scale.mean(-1) for scale in scales]).sum(0)


def fourier_images(made: Tensor, wanted: Tensor) -> Tensor:
    """Return the difference of Fourier magnitudes (B, C, ..., H, W) of two images, transforms not
    normalised.
    """
    return (torch.fft.fft2(made).abs() - torch.fft.fft2(wanted).abs()).abs()


def fourier_tokens(made: Tensor, wanted: Tensor, modalities: int = 1) -> Tensor:
    """Return the released token form (B, N, P) of the Fourier loss; for parity only.

    It reads the memory of (B, M * L, P) as (B, P * M, sqrt L, sqrt L) without a transpose, which is
    no picture.
    """
    edge = round((made.shape[1] // modalities) ** 0.5)
    shape = (len(made), -1, edge, edge)
    return fourier_images(made.reshape(shape), wanted.reshape(shape)).reshape(made.shape)


def released_group_loss(
    predicted: Tensor, pixels: Tensor, hidden: Tensor, layout: PixelLayout, norm: str
) -> Tensor:
    """Return SatMAE's loss as released: group-ordered predictions against targets in the sensor's
    order.

    Args:
        predicted: (B, C, L, p*p), channels in the order of the groups.
        pixels: (B, C, H, W), channels in the sensor's order.
        hidden: (B, G, L), 1 = hidden.
        norm: none or mae.

    The loop uses targets in group order instead, which is what the heads are for.
    """
    plain = PixelLayout(patch=layout.patch, channels_last=False)
    targets = (
        pixel_targets(pixels, plain, norm).unflatten(-1, (pixels.shape[1], -1)).transpose(1, 2)
    )
    errors = (predicted - targets).square().mean(-1)
    by_group = [errors[:, list(group)].mean(1) for group in layout.groups]
    return (torch.stack(by_group, dim=1) * hidden).sum() / hidden.sum()


def _token_count(layout: PixelLayout, shape: Sequence[int]) -> int:
    """Return the tokens of samples (B, C, [T,] H, W), band groups aside."""
    frames = shape[2] // layout.tubelet if len(shape) == 5 else 1
    return frames * (shape[-2] // layout.patch) * (shape[-1] // layout.patch)


def _values(pixels: Tensor, layout: PixelLayout, tubelet: int, ids: Tensor | None = None) -> Tensor:
    x = cut_patches(pixels, layout.patch, tubelet)
    return pick_patches(x.permute(0, 1, 2, 3, 5, 6, 7, 4) if layout.channels_last else x, ids)
