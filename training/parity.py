"""Losses as the papers' code was released, where ours differ: for comparisons with it, no recipe's.

Sources: Kraus et al. 2024, arXiv:2404.10242 (Fourier loss on tokens); Cong et al. 2022,
arXiv:2207.08051 (SatMAE on band groups).
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.models.layout import PixelLayout
from training.objectives import fourier_images
from training.pixel_targets import pixel_targets


def fourier_tokens(made: Tensor, wanted: Tensor, modalities: int = 1) -> Tensor:
    """Return the released token form (B, N, P) of the Fourier loss.

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
