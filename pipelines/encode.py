"""A unit of raw bytes becomes samples: decoded, checked, cut into clips or tiles, measured, stored.

This is where raw bytes are trusted for the first and last time: whatever cannot be decoded whole
is a
`DecodeError` with its class, never a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.grouping import Unit
from pipelines.ingest_spec import IngestSpec
from preprocessing import images, rasters, videos
from preprocessing.encoded import Encoded
from preprocessing.errors import DecodeError
from preprocessing.source import Source
from preprocessing.statistics import Moments, measure

MAX_IMAGE_BYTES = 2**28
"A compressed image is decoded whole; larger files are scenes or videos."


@dataclass(frozen=True, slots=True)
class NewSample:
    """One sample as it goes into a shard."""

    encoded: Encoded
    metadata: dict[str, object]
    moments: Moments
    score: float = 0.0


def encode_unit(unit: Unit, sources: Sequence[Source], spec: IngestSpec) -> Iterator[NewSample]:
    """Yield the samples of a unit, one at a time; an error may come after some of them.

    Args:
        unit: the raw files that belong together.
        sources: their bytes, in the unit's order.

    Raises:
        DecodeError: a file cannot be decoded whole, or the files do not fit together.
    """
    for file, source in zip(unit.files, sources, strict=True):
        if not source:
            raise DecodeError("empty_file", f"{file.path} has 0 bytes")
    match spec.modality:
        case "image":
            yield _encode_image(sources[0], spec)
        case "video":
            yield from _encode_video(unit, sources[0], spec)
        case _:
            yield from _encode_raster(unit, sources, spec)


def _encode_image(source: Source, spec: IngestSpec) -> NewSample:
    if len(source) > MAX_IMAGE_BYTES:
        raise DecodeError("too_large", f"{len(source)} bytes; at most {MAX_IMAGE_BYTES}")
    encoded, pixels = images.encode_image(source[:], short_side=spec.resize or None)
    return NewSample(encoded, {}, measure(pixels, channels_last=True))


def _encode_video(unit: Unit, source: Source, spec: IngestSpec) -> Iterator[NewSample]:
    data = source[:]
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


def _encode_raster(unit: Unit, sources: Sequence[Source], spec: IngestSpec) -> Iterator[NewSample]:
    decode = rasters.decode_tiff if spec.modality == "microscopy" else rasters.decode_geotiff
    pages = [decode(source[:]) for source in sources]
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
