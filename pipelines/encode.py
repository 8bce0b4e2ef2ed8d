"""A unit of raw bytes becomes samples: decoded, checked, cut into clips or tiles, measured, stored.

This is where raw bytes are trusted for the first and last time: whatever cannot be decoded whole
is a
`DecodeError` with its class, never a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pipelines.grouping import Unit
from pipelines.ingest_spec import IngestSpec
from preprocessing import images, rasters, videos
from preprocessing.encoded import Encoded
from preprocessing.errors import DecodeError
from preprocessing.statistics import Moments, measure


@dataclass(frozen=True, slots=True)
class NewSample:
    """One sample as it goes into a shard."""

    encoded: Encoded
    metadata: dict[str, object]
    moments: Moments
    score: float = 0.0


def encode_unit(unit: Unit, blobs: list[bytes], spec: IngestSpec) -> Iterator[NewSample]:
    """Yield the samples of a unit.

    Args:
        unit: the raw files that belong together.
        blobs: their bytes, in the unit's order.

    Raises:
        DecodeError: a file cannot be decoded whole, or the files do not fit together.
    """
    if any(not blob for blob in blobs):
        empty = unit.files[[bool(blob) for blob in blobs].index(False)]
        raise DecodeError("empty_file", f"{empty.path} has 0 bytes")
    match spec.modality:
        case "image":
            yield _encode_image(blobs[0], spec)
        case "video":
            yield from _encode_video(blobs[0], spec)
        case _:
            yield from _encode_raster(unit, blobs, spec)


def _encode_image(data: bytes, spec: IngestSpec) -> NewSample:
    encoded, pixels = images.encode_image(data, short_side=spec.resize or None)
    return NewSample(encoded, {}, measure(pixels, channels_last=True))


def _encode_video(data: bytes, spec: IngestSpec) -> Iterator[NewSample]:
    index = videos.probe_video(data)
    stride = None if spec.fps else spec.stride
    clips = videos.plan_clips(index, frames=spec.frames, stride=stride, fps=spec.fps or None)
    rate = spec.fps or index.fps / spec.stride
    for ids, frames in videos.decode_clips(data, index, clips, short_side=spec.resize or None):
        payload = videos.encode_clip(frames, rate)
        stored = videos.decode_clip(payload)
        yield NewSample(
            Encoded("mp4", payload, stored.shape, "uint8"),
            {
                "frames": ids,
                "seconds": [index.seconds(i) for i in ids],
                "fps": rate,
                "codec": index.codec,
            },
            measure(stored, channels_last=True),
            score=videos.motion_score(stored),
        )


def _encode_raster(unit: Unit, blobs: list[bytes], spec: IngestSpec) -> Iterator[NewSample]:
    decode = rasters.decode_tiff if spec.modality == "microscopy" else rasters.decode_geotiff
    pages = [decode(blob) for blob in blobs]
    image = rasters.merge_channels(pages, unit.channels) if unit.channels else pages[0]
    if spec.channels and not unit.channels:
        image = _named(image, spec.channels)
    metadata = {**image.metadata, "channels": list(image.channels or ()), **unit.fields}
    _, height, width = image.array.shape
    kept = image.valid
    tiles = 0
    for box in rasters.tile_boxes(height, width, spec.tile or max(height, width), spec.overlap):
        cut = (slice(box[0], box[2]), slice(box[1], box[3]))
        share = float(kept[cut].mean())
        if share < spec.min_valid:
            continue
        tiles += 1
        tile = np.ascontiguousarray(image.array[:, *cut])
        place = _tile_place(image, *box[:2]) if spec.tile else {}
        yield NewSample(
            Encoded("tif", rasters.encode_raster(tile), tile.shape, str(tile.dtype)),
            {**metadata, "valid_share": round(share, 6), **place},
            measure(tile, channels_last=False, valid=image.valid_CHW[:, *cut]),
        )
    if not tiles:
        raise DecodeError(
            "no_valid_data", f"no tile has {spec.min_valid:.0%} valid pixels (--min-valid)"
        )


def _named(image: rasters.RasterImage, channels: tuple[str, ...]) -> rasters.RasterImage:
    """Give a multi-page file the channel names that the user stated."""
    if len(channels) != image.array.shape[0]:
        raise DecodeError(
            "incomplete_channels",
            f"holds {image.array.shape[0]} channels, --channels names {len(channels)}",
        )
    return replace(image, channels=list(channels))


def _tile_place(image: rasters.RasterImage, top: int, left: int) -> dict[str, object]:
    """Return where a tile lies in its scene, and its own transform."""
    place: dict[str, object] = {"tile": [top, left]}
    transform = image.metadata.get("transform")
    if isinstance(transform, list):
        a, b, c, d, e, f = transform
        place["transform"] = [a, b, c + a * left + b * top, d, e, f + d * left + e * top]
        place["bounds"] = None  # the scene's do not hold for a tile; its transform and shape do
    return place
