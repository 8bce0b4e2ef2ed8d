"""Fields and scenes become samples: channels merged, cut into tiles, filtered, measured, stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipelines.grouping import Unit
from pipelines.ingest_spec import IngestSpec
from pipelines.new_sample import NewSample
from preprocessing import rasters
from preprocessing.encoded import Encoded
from preprocessing.errors import DecodeError
from preprocessing.source import Source
from preprocessing.statistics import measure


def encode_raster(unit: Unit, sources: Sequence[Source], spec: IngestSpec) -> Iterator[NewSample]:
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
