"""How a model reads pixel values inside a token, so that targets come in its order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelLayout:
    """Order of the values that a token's pixel target holds."""

    patch: int
    tubelet: int = 1
    channels_last: bool = True
    "frame, row, column, channel; else channel, frame, row, column"
    groups: tuple[tuple[int, ...], ...] = ()
    "channels of each token group, group-major; empty: every token holds all channels"
    joint_norm: bool = False
    "normalise over all groups of a position together (SatMAE), not within each token"
    frames: tuple[int, ...] = ()
    "frames that are predicted; empty: all"

    def width(self, channels: int) -> int:
        """Return the values of a pixel target token; groups are padded to the largest."""
        if self.groups:
            channels = max(map(len, self.groups))
        return channels * self.patch**2 * (1 if self.frames else self.tubelet)
