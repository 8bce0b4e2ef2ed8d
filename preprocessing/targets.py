"""What the decoder must predict, and the targets that are made from the pixels of the stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.hog import hog_targets

KINDS = ("pixels", "hog", "hog_scales", "ndi", "features", "label")
NO_TARGETS = {
    "codes": "no loss here takes them. The column is for code of your own",
    "regions": "no loss here takes them. The column is for code of your own",
    "fft": "the Fourier loss of microscopy is a part of pixels: target.kind=pixels and "
    "target.fourier=0.01",
    "flow": "it guides masks: mask.kind=mgmae or mgm",
    "motion": "it guides masks: mask.kind=mgm or mgmae with mask.source=motion",
    "masks": "a recipe uses stored masks by mask.made=column",
}
"Columns that nothing predicts, and what to say instead."
SCALE_SHARES = (16, 4, 1, 1)
"hog_scales: how many histograms of each scale a token's target holds, finest first."
_SOURCES = ("online", "column", "inputs")
_NORMS = ("none", "mae", "videomae")


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetConfig:
    """One thing to predict for each token."""

    kind: str = "pixels"
    "one of `KINDS`"
    source: str = "online"
    "made from the stored values (online), read from the derived column of the same name, or (hog, "
    "ndi) made from what the network sees (inputs)"
    cell: int = 8
    "hog: edge of a cell, px"
    bins: int = 9
    "hog: orientation bins"
    window: int = 0
    "hog: edge of the gaussian window, px; 0 is none"
    weight: float = 1.0
    "share in the loss"
    norm: str = "none"
    "per token: none, mae (all values together) or videomae (each channel)"
    fourier: float = 0.0
    "pixels: share of the Fourier term in the loss (microscopy has 0.01)"

    def __post_init__(self) -> None:
        if self.kind in NO_TARGETS:
            raise ValueError(f"target.kind is {self.kind!r}; {NO_TARGETS[self.kind]}.")
        for name, known in (("kind", KINDS), ("source", _SOURCES), ("norm", _NORMS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"target.{name} is {getattr(self, name)!r}; it must be one of "
                    f"{', '.join(known)}."
                )
        if self.source == "inputs" and self.kind not in ("hog", "ndi"):
            raise ValueError(
                f"target {self.kind} has source=inputs; only hog and ndi are made from what the "
                "network sees. Leave out source."
            )
        if self.kind == "label" and self.source != "online":
            raise ValueError(
                f"target {self.kind} has source={self.source}; no column holds it. Use online."
            )
        if self.cell < 1 or not 1 <= self.bins <= 255 or self.window < 0 or self.window == 1:
            raise ValueError(
                f"target has cell={self.cell}, bins={self.bins}, window={self.window}; cell must "
                "be 1 or more, "
                "bins 1 to 255, window 0 or 2 and more. MaskFeat has 8, 9 and 0."
            )
        if self.weight <= 0:
            raise ValueError(f"target.weight is {self.weight}; it must be above 0. 1 is usual.")
        if not 0 <= self.fourier < 1:
            raise ValueError(
                f"target.fourier is {self.fourier}; it must be at least 0 and below 1. 0.01 is "
                "usual."
            )

    @property
    def column(self) -> str:
        """The derived column that holds it, where its source is one."""
        return "hog" if self.kind == "hog_scales" else self.kind


def token_frames(
    pixels: NDArray[Any], tubelet: int = 1, *, channels_first: bool = False
) -> NDArray[Any]:
    """Return the frame that stands for each time of the token grid: (t, H, W, C).

    Args:
        pixels: (H, W, C), (T, H, W, C), or with `channels_first` (C, H, W). A clip gives every
            `tubelet`-th frame.
    """
    if channels_first:
        return pixels.transpose(1, 2, 0)[None]
    return pixels[None] if pixels.ndim == 3 else pixels[::tubelet]


def target_from_pixels(
    pixels: NDArray[Any],
    config: TargetConfig,
    patch: int,
    tubelet: int = 1,
    *,
    channels_first: bool = False,
) -> NDArray[np.float32]:
    """Return the target of every token that the stream makes from a viewed sample: (N, P) float32.

    Raises:
        ValueError: the target is not made from pixels here; the objective makes it, or a column
        holds it.
    """
    frames = token_frames(pixels, tubelet, channels_first=channels_first)
    if config.kind == "hog_scales":
        return np.concatenate([scale_targets(frame, patch, config.bins) for frame in frames])
    if config.kind != "hog":
        raise ValueError(
            f"target {config.kind} is not made in the stream; only hog and hog_scales are. "
            "The objective makes pixel targets; others come from a column."
        )
    return np.concatenate(
        [hog_targets(frame, patch, config.cell, config.bins, config.window) for frame in frames]
    )


def label_target(label: str | None, classes: Sequence[str]) -> NDArray[np.float32]:
    """Return (classes,): 1 at the label's place; all zeros for a sample without one."""
    return np.array([name == label for name in classes], dtype=np.float32)


def scale_targets(image: NDArray[Any], patch: int, bins: int) -> NDArray[np.float32]:
    """Return LocalMIM's histograms of every token of (H, W, C): (N, C * bins * 22) float32.

    They are those of cells of patch / 4, / 2 and / 1, as `hog_targets` orders them, then that of
    the cell of 2 x 2 patches which the token lies in.
    """
    parts = [hog_targets(image, patch, patch // k, bins) for k in (4, 2, 1)]
    h, w = image.shape[0] // patch, image.shape[1] // patch
    coarse = hog_targets(image, 2 * patch, 2 * patch, bins).reshape(h // 2, w // 2, -1)
    return np.concatenate([*parts, coarse.repeat(2, 0).repeat(2, 1).reshape(h * w, -1)], axis=1)


def patch_values(maps: NDArray[Any], patch: int) -> NDArray[np.float32]:
    """Return the patches of (I, H, W) maps as (N, patch * patch * I): row, column, map."""
    count, height, width = maps.shape
    split = maps.reshape(count, height // patch, patch, width // patch, patch)
    tokens = split.transpose(1, 3, 2, 4, 0).reshape(-1, patch * patch * count)
    return np.ascontiguousarray(tokens, dtype=np.float32)
