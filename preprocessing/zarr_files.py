"""OME-Zarr (NGFF up to 0.4 on Zarr 2, 0.5 on Zarr 3): level 0 of an image, window by window.

A folder holds one image, or several: the series of a file that bioformats2raw converted, or the
fields of a plate. Each that is like the first in axes, shape and type is a field of its own.

OME-Zarr leaves out chunks that hold nothing but the fill value; a chunk file that was lost looks
the same. So values of chunks that are not there are the fill value, as the format says, but count
as no data: they enter no statistics, a tile of nothing else is left out, and the metadata says how
many there are (`missing_chunks`). Where the format gives no fill value the folder is truncated.
"""

from __future__ import annotations

import json
import lzma
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import DecodeError
from preprocessing.raster_ome import micrometres, plane_names
from preprocessing.raster_reader import (
    Box,
    RasterImage,
    RasterReader,
    Watched,
    Window,
    all_valid,
    check_scene,
    read_whole,
)
from preprocessing.source import Source

MAX_FIELDS = 100_000
_ERRORS = (
    ValueError,
    RuntimeError,  # codecs
    OSError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    AssertionError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)


@dataclass(frozen=True, slots=True)
class _Image:
    """One multiscale image of a folder."""

    path: str
    attributes: dict[str, Any]
    place: dict[str, object] = field(default_factory=dict)
    "well and field of a plate, or number of a series"


def decode_zarr(members: Mapping[str, Source]) -> RasterImage:
    """Return the first field of an OME-Zarr folder, whole.

    Raises:
        DecodeError: as `open_zarr`; too_large, or no_valid_data (no chunk is there).
    """
    with open_zarr(members) as fields:
        return read_whole(fields[0])


@contextmanager
def open_zarr(members: Mapping[str, Source]) -> Iterator[list[RasterReader]]:
    """Open the fields of an OME-Zarr folder.

    Args:
        members: the folder's files by their names below it, with "/".

    Raises:
        DecodeError: empty_file, unrecognised_format, truncated, too_large or decode_error.
    """
    watched = Watched()
    with watched.decoding("OME-Zarr", _ERRORS):
        if not members:
            raise DecodeError("empty_file", "a Zarr folder without a file")
        files = {name: watched.wrap(source) for name, source in members.items()}
        opened = [_open(files, image, watched) for image in _images(files)]
        first = opened[0]
        alike = [
            reader
            for reader in opened
            if (reader.shape, reader.dtype, reader.metadata["axes"])
            == (first.shape, first.dtype, first.metadata["axes"])
        ]
    yield alike


def _attributes(files: Mapping[str, Source], path: str) -> dict[str, Any]:
    """Return the OME attributes of a group, {} where there is none."""
    start = f"{path}/" if path else ""
    if f"{start}zarr.json" in files:
        stated = json.loads(files[f"{start}zarr.json"][:]).get("attributes", {})
        return {**stated, **stated.get("ome", {}), "zarr": 3}
    if f"{start}.zattrs" in files:
        return {**json.loads(files[f"{start}.zattrs"][:]), "zarr": 2}
    return {}


def _images(files: Mapping[str, Source]) -> list[_Image]:
    """Return the images of a folder, in its order."""
    root = _attributes(files, "")
    if "multiscales" in root:
        return [_Image("", root)]
    found = list(_plate(files, root) if "plate" in root else _series(files))
    if not found:
        raise DecodeError(
            "unrecognised_format",
            "a Zarr folder whose attributes name no multiscales, plate or series; OME-Zarr needs "
            "one (.zattrs or zarr.json)",
        )
    return found


def _plate(files: Mapping[str, Source], root: dict[str, Any]) -> Iterator[_Image]:
    """Yield the fields of a plate, well by well."""
    for well in root["plate"]["wells"]:
        stated = _attributes(files, well["path"])
        if "well" not in stated:
            raise DecodeError("truncated", f"plate names well {well['path']}, which has no images")
        for image in stated["well"]["images"]:
            path = f"{well['path']}/{image['path']}"
            place = {"well": well["path"].replace("/", ""), "site": image["path"]}
            yield _Image(path, _multiscale(files, path), place)


def _series(files: Mapping[str, Source]) -> Iterator[_Image]:
    """Yield the images that bioformats2raw numbers from 0."""
    for number in range(MAX_FIELDS):
        attributes = _attributes(files, str(number))
        if "multiscales" not in attributes:
            return
        yield _Image(str(number), attributes, {"field": number} if number else {})


def _multiscale(files: Mapping[str, Source], path: str) -> dict[str, Any]:
    attributes = _attributes(files, path)
    if "multiscales" not in attributes:
        raise DecodeError("truncated", f"the image {path} has no multiscales attribute")
    return attributes


def _open(files: Mapping[str, Source], image: _Image, watched: Watched) -> RasterReader:
    """Describe level 0 of an image."""
    scales = image.attributes["multiscales"][0]
    level = scales["datasets"][0]
    path = f"{image.path}/{level['path']}".strip("/")
    header = f"{path}/zarr.json" if image.attributes["zarr"] == 3 else f"{path}/.zarray"
    if header not in files:
        raise DecodeError("truncated", f"attributes name {path}, but {header} is not there")
    from preprocessing.zarr_store import open_array  # zarr takes a second to import

    array = open_array(files, path, image.attributes["zarr"])
    axes = _axes(scales, array.ndim)
    order = [i for i, axis in enumerate(axes) if axis not in "YX"]
    lengths = {axes[i]: int(array.shape[i]) for i in order}
    order += [axes.index("Y"), axes.index("X")]
    height, width = (int(array.shape[i]) for i in order[-2:])
    shape = (int(np.prod(list(lengths.values()), dtype=np.int64)), height, width)
    stored = array.shards or array.chunks
    _check_array(array, shape, stored)
    there = _chunks_there(files, path, array, stored).transpose(order)
    planes = _spread(there, [stored[i] for i in order[:-2]], list(lengths.values()))
    size = _pixel_size(scales, axes)
    block = (stored[order[-2]], stored[order[-1]])

    def read(box: Box) -> Window:
        with watched.decoding("OME-Zarr", _ERRORS):
            cut = [slice(None)] * array.ndim
            cut[order[-2]], cut[order[-1]] = slice(box[0], box[2]), slice(box[1], box[3])
            values = np.asarray(array[tuple(cut)]).transpose(order)
            values = values.reshape(-1, *values.shape[-2:]).astype(array.dtype.type, copy=False)
            return np.ascontiguousarray(values), _valid(values, planes, box, block)

    return RasterReader(
        shape=shape,
        dtype=np.dtype(array.dtype.type),
        read=read,
        block=block,
        masked=not there.all() or array.dtype.kind == "f",
        channels=plane_names(lengths, _labels(image.attributes)),
        pixel_size=size,
        metadata={**image.place, "axes": axes, **_stated(size, there)},
    )


def _stated(size: tuple[float, float] | None, there: NDArray[np.bool_]) -> dict[str, object]:
    """Return what a sample's metadata say of pixels and of chunks that are not there."""
    stated: dict[str, object] = {"pixel_size": list(size) if size else None}
    if size:
        stated["pixel_size_unit"] = "µm"
    if not there.all():
        stated |= {"missing_chunks": int(there.size - there.sum()), "chunks": there.size}
    return stated


def _axes(scales: Mapping[str, Any], count: int) -> str:
    """Return the letters of the axes, slowest first."""
    stated = scales.get("axes") or list("tczyx")[-count:]
    names = "".join(a["name"] if isinstance(a, dict) else a for a in stated).upper()
    if len(names) != count or not {"Y", "X"} <= set(names) or len(set(names)) < count:
        raise DecodeError("decode_error", f"{count} axes named {names!r}; y and x are needed")
    return names


def _check_array(array: Any, shape: tuple[int, int, int], stored: Sequence[int]) -> None:
    """Refuse values that are no numbers, and sizes that no memory holds."""
    if array.dtype.kind not in "iufb":
        raise DecodeError("decode_error", f"values of {array.dtype}; real numbers are needed")
    check_scene(shape, int(np.prod(stored, dtype=np.int64)) * array.dtype.itemsize)


def _chunks_there(
    files: Mapping[str, Source], path: str, array: Any, stored: Sequence[int]
) -> NDArray[np.bool_]:
    """Return, for each chunk (or shard) of the grid, whether its file is there."""
    grid = [-(-length // size) for length, size in zip(array.shape, stored, strict=True)]
    start = f"{path}/" if path else ""
    there = np.zeros(grid, np.bool_)
    for place in np.ndindex(*grid):
        name = start + array.metadata.encode_chunk_key(place)
        if name in files and not len(files[name]):
            raise DecodeError("truncated", f"the chunk {name} has 0 bytes")
        there[place] = name in files
    if not there.all() and array.metadata.fill_value is None:
        raise DecodeError(
            "truncated",
            f"{there.size - there.sum()} of {there.size} chunks of {path} are not there, and it "
            "has no fill value",
        )
    return there


def _spread(
    there: NDArray[np.bool_], sizes: Sequence[int], lengths: Sequence[int]
) -> NDArray[np.bool_]:
    """Return (C, rows, columns) of chunks from one over the grid of all axes."""
    for axis, (size, length) in enumerate(zip(sizes, lengths, strict=True)):
        there = np.take(there, np.arange(length) // size, axis)
    return there.reshape(-1, *there.shape[-2:])


def _valid(
    values: NDArray[np.generic], planes: NDArray[np.bool_], box: Box, block: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return (C, h, w): finite, and of a chunk that is there."""
    finite = np.isfinite(values) if values.dtype.kind == "f" else all_valid(values.shape)
    if planes.all():
        return finite
    rows, columns = np.arange(box[0], box[2]), np.arange(box[1], box[3])
    return finite & planes[:, (rows // block[0])[:, None], (columns // block[1])[None]]


def _labels(attributes: Mapping[str, Any]) -> list[str]:
    """Return the names of the channels, "" for one without."""
    channels = (attributes.get("omero") or {}).get("channels") or []
    return [str(channel.get("label") or "") for channel in channels]


def _pixel_size(scales: Mapping[str, Any], axes: str) -> tuple[float, float] | None:
    """Return (x, y) in micrometres, None where a unit is not stated."""
    sizes = np.ones(len(axes))
    for step in (scales, scales["datasets"][0]):
        for transform in step.get("coordinateTransformations") or []:
            if transform.get("type") == "scale":
                sizes = sizes * np.array(transform["scale"], float)
    found = []
    for axis in "XY":
        place = axes.index(axis)
        stated = (scales.get("axes") or [{}] * len(axes))[place]
        unit = stated.get("unit", "") if isinstance(stated, dict) else ""
        size = micrometres(float(sizes[place]), unit)
        if size is None:
            return None
        found.append(size)
    return found[0], found[1]
