"""Raw pixels to network inputs: one rule a recipe, the same in training and in probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from preprocessing.patches import self_standardise

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LEVELS = {"stretch": 255}
"Steps between 0 and 1 of the inputs, where a norm leaves steps."


def side_inputs(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what a batch tells the model beside pixels and tokens: the dates of series."""
    return {"dates": batch["dates"]} if "dates" in batch else {}


class InputNorm(nn.Module):
    """Normalises (B, C, H, W) or (B, C, T, H, W) pixels, uint8 or float32, to float32.

    `imagenet` and `unit` divide by 255 first; `stats` and `stretch` use the dataset's mean and
    variance as stored (stretch: mean +- 2 std to the 256 levels of [0, 1], cut off, not rounded, as
    SatMAE and FG-MAE have it); `self` has zero mean and unit variance per sample and channel.

    Whatever the kind but `self`, `mean` is subtracted and `std` divided by; with `levels` the
    result is then cut to that many steps of [0, 1].
    """

    def __init__(
        self, kind: str, channels: int, stats: Mapping[str, Sequence[float]] | None
    ) -> None:
        super().__init__()
        self.kind = kind
        mean, std = map(torch.tensor, _moments(kind, channels, stats))
        self.levels = LEVELS.get(kind, 0)
        if self.levels:
            mean, std = mean - 2 * std, 4 * std
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the normalised pixels."""
        if pixels.shape[1] != len(self.mean):
            raise ValueError(
                f"samples have {pixels.shape[1]} channels, the network was made for "
                f"{len(self.mean)}. Choose channels by name with data.bands or model.groups."
            )
        x = pixels.to(torch.float32, copy=True)
        if self.kind == "self":
            return self_standardise(x.div_(255.0) if pixels.dtype == torch.uint8 else x)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        x = x.sub_(self.mean.view(shape)).div_(self.std.view(shape))
        if not self.levels:
            return x
        return x.mul_(self.levels).clamp_(0, self.levels).floor_().div_(self.levels)


def _moments(
    kind: str, channels: int, stats: Mapping[str, Sequence[float]] | None
) -> tuple[list[float], list[float]]:
    if kind == "imagenet":
        if channels != 3:
            raise ValueError(
                f"model.norm_input is imagenet, the samples have {channels} channels; it fits "
                "RGB only. "
                "Use stats, stretch or self."
            )
        return [255 * m for m in IMAGENET_MEAN], [255 * s for s in IMAGENET_STD]
    if kind in ("stats", "stretch"):
        if not stats or len(stats["mean"]) != channels:
            raise ValueError(
                f"model.norm_input is {kind}, the samples have {channels} channels, the "
                "dataset's statistics "
                f"{len(stats['mean']) if stats else 0}. Set data.bands to channels of the "
                "dataset, or use self."
            )
        return list(stats["mean"]), [max(float(v), 1e-12) ** 0.5 for v in stats["variance"]]
    return [0.0] * channels, [255.0] * channels
