"""The pictures and clips of a batch decoded, viewed and described on a device, all at once.

What the device makes lies within `preprocessing.decode_torch.TOLERANCE` of the CPU's, so a run
keeps to one of both. A sample that the device cannot decode is left to the CPU.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.stream import StreamConfig
from preprocessing.decode_torch import decode_frames
from preprocessing.hog_torch import hog_targets_torch
from preprocessing.views import View
from preprocessing.views_torch import apply_view_torch


@dataclass(frozen=True, slots=True)
class Undecoded:
    """A sample that is read and not decoded."""

    key: str
    ext: str
    payload: bytes
    "verified"
    view: View


@dataclass(frozen=True, slots=True)
class Ready:
    """A sample as the device made it."""

    pixels: NDArray[np.uint8]
    "under the view: (size, size, 3), or (T, size, size, 3) of a clip"
    view: View
    targets: Mapping[str, NDArray[np.float32]]
    "those made on the device, by kind"


@dataclass(frozen=True, slots=True)
class Stage:
    """What a device does for a stream."""

    stream: StreamConfig
    device: torch.device

    def make(self, samples: Sequence[Undecoded]) -> dict[str, Ready]:
        """Return what could be made of samples, by their keys."""
        ready: dict[str, Ready] = {}
        for ext in sorted({one.ext for one in samples}):
            chosen = [one for one in samples if one.ext == ext]
            decoded = decode_frames(ext, [one.payload for one in chosen], self.device)
            alike: dict[torch.Size, list[tuple[Undecoded, Tensor]]] = defaultdict(list)
            for one, frames in zip(chosen, decoded, strict=True):
                if frames is not None:
                    seen = apply_view_torch(frames[:: self.stream.stride], one.view)
                    alike[seen.shape].append((one, seen))
            for group in alike.values():
                ready |= self._ready(*zip(*group, strict=True))
        return ready

    def _ready(self, samples: Sequence[Undecoded], seen: Sequence[Tensor]) -> dict[str, Ready]:
        """Return samples whose frames have one shape."""
        frames = torch.stack(list(seen))
        pixels = frames.permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()
        targets = self._targets(frames)
        return {
            one.key: Ready(
                pixels[i] if one.ext == "mp4" else pixels[i, 0],
                one.view,
                {kind: values[i] for kind, values in targets.items()},
            )
            for i, one in enumerate(samples)
        }

    def _targets(self, frames: Tensor) -> dict[str, NDArray[np.float32]]:
        """Return HOG of (B, T, C, H, W), where the stream makes it: (B, N, P)."""
        wanted = [t for t in self.stream.targets if t.kind == "hog" and t.source == "online"]
        shown = frames[:, :: self.stream.tubelet]
        return {
            target.kind: hog_targets_torch(
                shown.flatten(0, 1), self.stream.patch, target.cell, target.bins, target.window
            )
            .reshape(len(frames), -1, shown.shape[2] * target.bins * self._cells(target.cell))
            .cpu()
            .numpy()
            for target in wanted
        }

    def _cells(self, cell: int) -> int:
        return (self.stream.patch // cell) ** 2
