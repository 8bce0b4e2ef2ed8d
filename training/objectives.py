"""The losses of a recipe on the tokens that it decodes.

A prediction is (B, Q, P): a vector for each decoded token. Targets are made from the pixels
(`training.pixel_targets`), from the inputs (`training.seen_targets`), or come with the batch as
`targets.<kind>` (B, N, P). The loss is the mean over tokens that were decoded and hidden from the
encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from preprocessing.patches import normalise_patches
from preprocessing.targets import SCALE_SHARES
from training.models.layout import PixelLayout
from training.models.tokens import take_tokens
from training.pixel_targets import pixel_targets, real_values, token_count, unpatchify
from training.seen_targets import seen_targets

if TYPE_CHECKING:
    from preprocessing.targets import TargetConfig


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
            weights = hidden_weights(visible, decoded, token_count(self.layout, inputs.shape))
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
    errors = functional.mse_loss(predicted, wanted, reduction="none")
    if real is None:
        return errors.sum(-1) / errors.shape[-1]  # a mean would spread its gradient over all values
    return (errors * real).sum(-1) / real.sum(-1)


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
