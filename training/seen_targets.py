"""Targets that the objective makes from what the network sees, on its device (FG-MAE).

Indices and gradients are then those of the stretched bands, as in the released code; a target that
the stream makes is one of the stored values.

Source: Wang et al. 2023, arXiv:2310.18653 (FG-MAE); Wei et al. 2022, arXiv:2112.09133 (HOG).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from preprocessing.hog_torch import hog_targets_torch
from preprocessing.indices import INDICES
from preprocessing.indices_torch import ndi_torch
from preprocessing.patches import patchify

if TYPE_CHECKING:
    from preprocessing.targets import TargetConfig


def seen_width(target: TargetConfig, channels: int, patch: int) -> int:
    """Return how many values a token of the target has."""
    if target.kind == "ndi":
        return len(INDICES) * patch * patch
    return channels * target.bins * (patch // target.cell) ** 2


def seen_targets(
    target: TargetConfig, inputs: Tensor, patch: int, bands: Sequence[str], levels: int = 0
) -> Tensor:
    """Return the target (B, N, P) of inputs (B, C, H, W) as the network sees them.

    Args:
        bands: names of the channels; ndi needs them.
        levels: steps of the inputs from 0 to 1, 0 if they have none. Gradients are taken on whole
            steps, where a tie between two bins is exact.

    Raises:
        ValueError: a band that an index needs is missing.
    """
    if target.kind == "ndi":
        return patchify(ndi_torch(inputs, bands), patch)
    frames = (inputs * levels).round() if levels else inputs
    return hog_targets_torch(frames, patch, target.cell, target.bins, target.window)
