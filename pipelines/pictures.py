"""Stored samples under their views: keyed by (seed, epoch, sample), decoded as far as is seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.producers import VIEW_SEED, channels_first, spatial_shape
from pipelines.stream import StreamConfig
from preprocessing.errors import DecodeError
from preprocessing.indices import band_numbers
from preprocessing.jpeg import view_reduced
from preprocessing.jpeg_region import decode_region, decode_view
from preprocessing.payloads import decode_payload
from preprocessing.randomness import borrowed
from preprocessing.views import View, apply_view, draw_view, interpolated


class Picture(NamedTuple):
    """A sample: what is stored, and what of it is seen."""

    stored: NDArray[Any]
    "decoded: all of it where a target needs it, else the bands that are seen"
    chosen: NDArray[Any]
    "the bands that are seen"
    pixels: NDArray[Any]
    "these under the view"
    view: View


class Pictures:
    """Shows the samples of a stream."""

    def __init__(self, stream: StreamConfig) -> None:
        self.stream = stream
        self.room: NDArray[Any] | None = None
        "where the next picture belongs in its batch, if that is known: it may be made there"

    def __getstate__(self) -> dict[str, Any]:
        return {"stream": self.stream, "room": None}

    def view(self, shape: tuple[int, int], sample: int, epoch: int) -> View:
        """Return the view that a sample of a height and width has in an epoch."""
        frozen = self.stream.frozen_views
        entropy = (VIEW_SEED, epoch % frozen) if frozen else (self.stream.seed, epoch)
        return draw_view(self.stream.view, *shape, borrowed(*entropy, sample, "view"))

    def show(
        self, payload: bytes, fields: Mapping[str, Any], sample: int, epoch: int, where: str
    ) -> Picture:
        """Return a stored picture or clip under the view that `sample` has in an epoch.

        Raises:
            DecodeError, ValueError: it cannot be decoded, or lacks a band. Names `where`.
        """
        ext = fields["ext"]
        view = None
        if ext == "jpg":
            height, width = fields["shape"][:2]
            view = self.view((height, width), sample, epoch)
            pixels = self._of_jpeg(payload, view)
            if pixels is not None:
                return Picture(pixels, pixels, pixels, view)
        stored, chosen = self._decoded(payload, fields, where)
        view = view or self.view(spatial_shape(chosen, ext), sample, epoch)
        pixels = apply_view(chosen, view, channels_first=channels_first(ext))
        return Picture(stored, chosen, pixels, view)

    def _of_jpeg(self, payload: bytes, view: View) -> NDArray[np.uint8] | None:
        """Return what a view shows of a JPEG without decoding it whole; None where that fails."""
        # Stored targets were made from whole pictures, and so must be what they are held against.
        # A box worth reducing has 4 size^2 pixels; fewer bytes than a quarter of that are none.
        if len(payload) >= view.size**2 and not self.stream.frozen_views:
            reduced = view_reduced(payload, view)
            if reduced is not None:
                return reduced
        if not interpolated(view):
            region = decode_region(payload, view)
            here = View(0, 0, view.height, view.width, view.size, view.flip)
            return None if region is None else apply_view(region, here)
        planes, shape = self.room, (3, view.size, view.size)
        if planes is None or self.stream.series or (planes.shape, planes.dtype) != (shape, "u1"):
            planes = np.empty(shape, np.uint8)
        return planes.transpose(1, 2, 0) if decode_view(payload, view, planes) else None

    def _decoded(
        self, payload: bytes, fields: Mapping[str, Any], where: str
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return what is stored, as far as this stream reads it, and the bands that are seen."""
        names = self._bands(fields, where)
        everything = names is None or any(t.kind == "ndi" for t in self.stream.targets)
        try:
            stored = decode_payload(fields["ext"], payload, None if everything else names)
        except DecodeError as error:
            raise DecodeError(error.reason_class, f"{where}: {error.detail}") from error
        if stored.ndim == 4:
            stored = stored[:: self.stream.stride]
        return stored, stored if names is None or not everything else stored[names]

    def _bands(self, fields: Mapping[str, Any], where: str) -> list[int] | None:
        """Return the numbers of the channels that are asked for; None takes all."""
        wanted = self.stream.bands or tuple(name for group in self.stream.groups for name in group)
        if not wanted or not channels_first(fields["ext"]):
            return None
        names = json.loads(fields["metadata"]).get("channels") or []
        try:
            return band_numbers(names, wanted)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
