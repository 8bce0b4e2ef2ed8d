"""The pixels of a batch in one block of memory, each sample's written where it belongs."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.memory import Blocks, SharedBlocks
from pipelines.producers import channels_first


class PixelBlock:
    """Fills (samples, C, H, W) or (samples, C, T, H, W), which the first sample sets out."""

    def __init__(self, samples: int, blocks: Blocks | SharedBlocks) -> None:
        self.samples, self.blocks = samples, blocks
        self.tensor = torch.empty(0)
        self._array: NDArray[Any] | None = None

    def room(self, number: int) -> NDArray[Any] | None:
        """Return where a sample's pixels belong, once that is known: they may be made there."""
        return None if self._array is None else self._array[number]

    def put(self, number: int, pixels: NDArray[Any], ext: str) -> None:
        """Write a sample's pixels, channels first.

        Raises:
            ValueError: they have another shape than those before.
        """
        first = _first(pixels, ext)
        if self._array is None:
            dtype = torch.uint8 if pixels.dtype == np.uint8 else torch.float32
            self.tensor = self.blocks.take((self.samples, *first.shape), dtype)
            self._array = self.tensor.numpy()
        if first.shape != self._array.shape[1:]:
            raise ValueError(
                f"batch: sample {number} has the shape {first.shape}, those before "
                f"{self._array.shape[1:]}. One batch holds samples of one shape; choose data.bands."
            )
        target = self._array[number]
        if np.may_share_memory(first, target):  # made there
            return
        plain = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.flags.c_contiguous
        if plain and first is not pixels:
            cv2.split(pixels, list(target))  # a fifth of the time of numpy's transposed copy
        else:
            target[...] = first
        if target.dtype != np.uint8:
            np.nan_to_num(target, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def _first(pixels: NDArray[Any], ext: str) -> NDArray[Any]:
    """Return pixels as (C, H, W) or (C, T, H, W), without a copy."""
    if channels_first(ext):
        return pixels
    return pixels.transpose(3, 0, 1, 2) if pixels.ndim == 4 else pixels.transpose(2, 0, 1)
