"""The torch twin of preprocessing.indices, for batches that live on a device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from preprocessing.indices import EPSILON, INDICES, band_position


def ndi_torch(
    pixels: Tensor, bands: Sequence[str], names: Sequence[str] = ("ndvi", "ndwi", "ndbi")
) -> Tensor:
    """Return normalised difference indices: (B, C, H, W) -> (B, len(names), H, W) float32.

    Raises:
        ValueError: an index is unknown, or a band that it needs is missing.
    """
    unknown = [name for name in names if name not in INDICES]
    if unknown:
        raise ValueError(f"ndi: index {unknown[0]!r} is unknown. Known: {', '.join(INDICES)}.")
    planes = []
    for name in names:
        first, second = (pixels[:, band_position(bands, band)].float() for band in INDICES[name])
        total = first + second + EPSILON
        safe = torch.where(total == 0, torch.ones_like(total), total)
        planes.append(torch.where(total == 0, torch.zeros_like(total), (first - second) / safe))
    return torch.stack(planes, dim=1)
