"""Fields and scenes become samples: channels merged, cut into tiles, filtered, measured, stored.

A raw file of any size is read in windows; an error may come after some tiles were yielded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.grouping import Unit
from pipelines.ingest_spec import IngestSpec
from pipelines.new_sample import NewSample
from preprocessing import rasters
from preprocessing.encoded import Encoded
from preprocessing.errors import DecodeError
from preprocessing.rasters import RasterReader
from preprocessing.source import Source
from preprocessing.statistics import measure
from preprocessing.tissue import tissue_share

_TIMES = ("time", "datetime", "date", "timestamp")
"named groups of a pattern that say when a scene was taken"
_STAMP = re.compile(
    r"(\d{4})[-:]?(\d\d)[-:]?(\d\d)(?:[T ]?(\d\d):?(\d\d)(?::?(\d\d))?(?:\.\d+)?Z?)?$"
)
_PER_BAND = ("descriptions", "scales", "offsets")
_IN_MEMORY = 2**25
"bytes of a raster that is read at once, tiled or not"


@dataclass(slots=True)
class _Tally:
    """What became of the tiles of a unit."""

    stored: int = 0
    cloudy: int = 0
    bare: int = 0


def encode_raster(
    unit: Unit, sources: Sequence[Source | Mapping[str, Source]], spec: IngestSpec
) -> Iterator[NewSample]:
    """Yield the tiles of a unit, or each field whole where no tile size is asked for.

    Args:
        unit: the raw files that belong together.
        sources: their bytes, in the unit's order; of a Zarr folder a mapping of its files.

    Raises:
        DecodeError: a file cannot be decoded whole, the files do not fit together, or nothing
            passes the filters (no_valid_data).
    """
    tally = _Tally()
    with ExitStack() as stack:
        opened = [stack.enter_context(_open(source, spec)) for source in sources]
        for reader in _fields(opened, unit, spec):
            yield from _encode_field(reader, unit, spec, tally)
    if not tally.stored:
        cloud = f", {tally.cloudy} have more cloud than {spec.max_cloud:.0%} (--max-cloud)"
        bare = f", {tally.bare} have less tissue than {spec.min_tissue:.0%} (--min-tissue)"
        raise DecodeError(
            "no_valid_data",
            f"no tile has {spec.min_valid:.0%} valid pixels (--min-valid)"
            + (cloud if tally.cloudy else "")
            + (bare if tally.bare else ""),
        )


def _open(
    source: Source | Mapping[str, Source], spec: IngestSpec
) -> AbstractContextManager[list[RasterReader]]:
    """Open the fields of a raw file."""
    if isinstance(source, Mapping):
        return rasters.open_zarr(source)
    if rasters.is_array_file(source):
        return rasters.open_arrays(source)
    if spec.modality == "microscopy":
        return rasters.open_tiff(source)
    return rasters.open_geotiff(source)


def _fields(
    opened: list[list[RasterReader]], unit: Unit, spec: IngestSpec
) -> Iterator[RasterReader]:
    """Yield each field of a unit, with the names of its channels."""
    if unit.channels:
        for fields, name in zip(opened, unit.channels, strict=True):
            if len(fields) != 1:
                raise DecodeError(
                    "shape_mismatch", f"{name}: {len(fields)} fields in a file, expected 1"
                )
        yield rasters.merge_readers(
            [fields[0] for fields in opened], unit.channels, nearest=(spec.cloud_band,)
        )
        return
    for reader in opened[0]:
        yield _named(reader, spec.channels) if spec.channels else reader


def _named(reader: RasterReader, channels: tuple[str, ...]) -> RasterReader:
    """Give a multi-page file the channel names that the user stated."""
    if len(channels) != reader.shape[0]:
        raise DecodeError(
            "incomplete_channels",
            f"holds {reader.shape[0]} channels, --channels names {len(channels)}",
        )
    return replace(reader, channels=list(channels))


def _encode_field(
    reader: RasterReader, unit: Unit, spec: IngestSpec, tally: _Tally
) -> Iterator[NewSample]:
    """Yield the tiles of a field that pass the filters."""
    _, height, width = reader.shape
    boxes = rasters.tile_boxes(height, width, spec.tile or max(height, width), spec.overlap)
    if not spec.tile:
        rasters.check_whole(reader)
    small = not spec.tile or reader.nbytes <= _IN_MEMORY
    if small:
        reader = rasters.loaded(reader)
    cloud, kept = _cloud_band(reader, spec)
    alive = rasters.channels_with_data(reader)[kept]
    if not alive.any():
        return
    metadata = _metadata(reader, kept, unit)
    tiles = ((b, reader.read(b)) for b in boxes) if small else rasters.read_tiles(reader, boxes)
    for box, (values, valid) in tiles:
        shares = {"valid_share": 1.0}
        if reader.masked or cloud is not None:
            shares = _shares(values, valid[kept], alive, cloud, spec)
        if spec.min_tissue:
            shares["tissue_share"] = tissue_share(values[kept])
        if _passes(shares, spec, tally):
            place = _tile_place(metadata, box) if spec.tile else {}
            mask = valid[kept] if reader.masked else None
            yield _sample(values[kept], mask, {**metadata, **shares, **place})


def _passes(shares: Mapping[str, float], spec: IngestSpec, tally: _Tally) -> bool:
    """Tell whether a tile is stored, and count it."""
    if shares["valid_share"] < spec.min_valid:
        return False
    cloudy = shares.get("cloud_share", 0) > spec.max_cloud
    bare = not cloudy and shares.get("tissue_share", 1) < spec.min_tissue
    tally.cloudy, tally.bare = tally.cloudy + cloudy, tally.bare + bare
    tally.stored += not cloudy and not bare
    return not cloudy and not bare


def _cloud_band(reader: RasterReader, spec: IngestSpec) -> tuple[int | None, slice | list[int]]:
    """Return which channel says what is cloud, and which are stored."""
    if not spec.cloud_band:
        return None, slice(None)
    names = reader.channels or []
    if spec.cloud_band not in names:
        raise DecodeError(
            "incomplete_channels", f"lacks --cloud-band {spec.cloud_band} among {names}"
        )
    cloud = names.index(spec.cloud_band)
    if spec.cloud_band in spec.channels:
        return cloud, slice(None)
    return cloud, [channel for channel in range(len(names)) if channel != cloud]


def _shares(
    values: NDArray[np.generic],
    valid: NDArray[np.bool_],
    alive: NDArray[np.bool_],
    cloud: int | None,
    spec: IngestSpec,
) -> dict[str, float]:
    """Return the share of pixels with data in all channels, and of cloud among them."""
    data = valid[alive].all(0)
    shares = {"valid_share": round(float(data.mean()), 6)}
    if cloud is not None:
        clouds = np.isin(values[cloud], spec.cloud_values) & data
        shares["cloud_share"] = round(float(clouds.sum() / max(data.sum(), 1)), 6)
    return shares


def _sample(
    tile: NDArray[np.generic], valid: NDArray[np.bool_] | None, metadata: dict[str, object]
) -> NewSample:
    tile = np.ascontiguousarray(tile)
    if valid is not None and valid.all():
        valid = None
    return NewSample(
        Encoded("tif", rasters.encode_raster(tile), tile.shape, str(tile.dtype)),
        metadata,
        measure(tile, channels_last=False, valid=valid),
    )


def _metadata(reader: RasterReader, kept: slice | list[int], unit: Unit) -> dict[str, object]:
    """Return what all tiles of a field say."""
    metadata = dict(reader.metadata)
    for name in _PER_BAND:
        stated = metadata.get(name)
        if isinstance(stated, list) and len(stated) == reader.shape[0]:
            metadata[name] = _pick(stated, kept)
    metadata["channels"] = _pick(reader.channels or [], kept)
    metadata |= unit.fields
    stated_time = next((unit.fields[name] for name in _TIMES if unit.fields.get(name)), None)
    time = stated_time or metadata.get("time")
    return metadata | ({"time": iso_time(str(time))} if time else {})


def _pick(names: list[str], kept: slice | list[int]) -> list[str]:
    return names[kept] if isinstance(kept, slice) else [names[i] for i in kept if i < len(names)]


def iso_time(text: str) -> str:
    """Return a date or time as ISO 8601 where it is written in a usual way, else as it is."""
    match = _STAMP.match(text.strip())
    if match is None:
        return text
    year, month, day, hour, minute, second = match.groups()
    clock = f"T{hour}:{minute}:{second or '00'}" if hour else ""
    return f"{year}-{month}-{day}{clock}"


def _tile_place(metadata: dict[str, object], box: rasters.Box) -> dict[str, object]:
    """Return where a tile lies in its scene, its own transform, and the ground that it covers."""
    top, left, bottom, right = box
    place: dict[str, object] = {"tile": [top, left]}
    transform = metadata.get("transform")
    if isinstance(transform, list):
        a, b, c, d, e, f = transform
        corners = [
            (c + a * x + b * y, f + d * x + e * y) for x in (left, right) for y in (top, bottom)
        ]
        xs, ys = zip(*corners, strict=True)
        place["transform"] = [a, b, c + a * left + b * top, d, e, f + d * left + e * top]
        place["bounds"] = [min(xs), min(ys), max(xs), max(ys)]
    return place
