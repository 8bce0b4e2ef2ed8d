"""The skeleton of a TIFF: its directories and where its pixels lie, checked against the file.

Readers fill missing strips with zeros and skip directories beyond the end; neither is noticed
unless the extents are compared with the bytes that are there.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preprocessing.errors import DecodeError
from preprocessing.source import Source

_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_TYPE_SIZES |= {13: 4, 16: 8, 17: 8, 18: 8}
_UNSIGNED = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _ROWS, _STRIP_SIZES, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES = 322, 323, 324, 325
_PREDICTOR, _SAMPLE_FORMAT = 317, 339
_WANTED = frozenset((_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIPS, _SAMPLES, _ROWS))
_WANTED |= {_STRIP_SIZES, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES}
_WANTED |= {_PREDICTOR, _SAMPLE_FORMAT}
_YCBCR = 6
MAX_DIRECTORIES = 100_000
MAX_SEGMENTS = 2**22
"strips or tiles of one page"

Raw = bytes | Source


@dataclass(frozen=True, slots=True)
class Directory:
    """One page of a TIFF: the unsigned integer tags that say where its pixels are."""

    tags: dict[int, Sequence[int]]

    def first(self, tag: int, default: int = 0) -> int:
        """Return the first value of a tag."""
        return self.tags.get(tag, (default,))[0]

    @property
    def values(self) -> int:
        """How many numbers the page holds."""
        return self.first(_WIDTH) * self.first(_HEIGHT) * self.first(_SAMPLES, 1)

    @property
    def segments(self) -> int:
        """How many strips or tiles the page must have."""
        planes = self.first(_SAMPLES, 1) if self.first(_PLANAR, 1) == 2 else 1
        width, height = self.first(_WIDTH), self.first(_HEIGHT)
        if _TILES in self.tags:
            across = -(-width // max(1, self.first(_TILE_WIDTH, width)))
            return across * -(-height // max(1, self.first(_TILE_HEIGHT, height))) * planes
        return -(-height // max(1, self.first(_ROWS, height))) * planes

    @property
    def offsets(self) -> Sequence[int]:
        """Where each strip or tile begins."""
        return self.tags.get(_STRIPS) or self.tags.get(_TILES) or ()

    @property
    def sizes(self) -> Sequence[int]:
        """How many bytes each strip or tile has."""
        return self.tags.get(_STRIP_SIZES) or self.tags.get(_TILE_SIZES) or ()


def is_tiff(data: Raw) -> bool:
    """Tell whether bytes begin as a classic or big TIFF."""
    return data[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


@dataclass(frozen=True, slots=True)
class _Layout:
    """How numbers are written: byte order, and the letters of `struct` of classic or big TIFF."""

    order: str
    counter: str
    word: str
    entry: int

    @property
    def inline(self) -> int:
        """Bytes of a tag's value that lie in the directory itself."""
        return struct.calcsize(self.word)


def read_directories(data: Raw) -> list[Directory]:
    """Return the pages of a TIFF in file order; of a source, only directories are read.

    Raises:
        DecodeError: truncated, where a directory or a tag's values lie beyond the end.
    """
    return [read_directory(data, place) for place in directory_places(data)]


def directory_places(data: Raw) -> list[int]:
    """Return where the directory of each page begins, without reading the tags.

    Raises:
        DecodeError: truncated, or decode_error for a chain that runs in a circle.
    """
    layout = _layout(data)
    head = 16 if layout.word == "Q" else 8
    if len(data) < head:
        raise DecodeError("truncated", f"TIFF of {len(data)} bytes, shorter than its header")
    place = _number(data, head - layout.inline, layout.order + layout.word)
    places: dict[int, None] = {}
    while place:
        if place in places or len(places) >= MAX_DIRECTORIES:
            raise DecodeError("decode_error", f"TIFF: directory at byte {place} is listed again")
        places[place] = None
        begin, entries = _entries(data, place, layout)
        place = _number(data, begin + entries * layout.entry, layout.order + layout.word)
    if not places:
        raise DecodeError("decode_error", "TIFF without a directory")
    return list(places)


def read_directory(data: Raw, place: int) -> Directory:
    """Return the directory at a place.

    Raises:
        DecodeError: truncated, where the directory or a tag's values lie beyond the end.
    """
    layout = _layout(data)
    begin, entries = _entries(data, place, layout)
    block = data[begin : begin + entries * layout.entry]
    header = struct.Struct(f"{layout.order}HH{layout.word}")
    tags: dict[int, Sequence[int]] = {}
    for at in range(0, len(block), layout.entry):
        tag, kind, count = header.unpack_from(block, at)
        size = _TYPE_SIZES.get(kind, 1) * count
        inside = size <= layout.inline
        values = at + header.size
        if not inside:
            values = struct.unpack_from(layout.order + layout.word, block, values)[0]
            _check_extent(data, values, size)
        if tag not in _WANTED or kind not in _UNSIGNED or not count:
            continue
        if count > MAX_SEGMENTS:
            raise DecodeError("too_large", f"TIFF with {count} values in tag {tag}")
        raw = block[values : values + size] if inside else data[values : values + size]
        tags[tag] = struct.unpack(f"{layout.order}{count}{_UNSIGNED[kind]}", raw)
    return Directory(tags)


def _number(data: Raw, place: int, form: str) -> int:
    """Return the unsigned integer at a place that was checked."""
    number: int = struct.unpack(form, data[place : place + struct.calcsize(form)])[0]
    return number


def _layout(data: Raw) -> _Layout:
    head = data[:4]
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:] in (b"+\x00", b"\x00+")
    return _Layout(order, "Q", "Q", 20) if big else _Layout(order, "H", "I", 12)


def _entries(data: Raw, place: int, layout: _Layout) -> tuple[int, int]:
    """Return where the entries of a directory begin, and how many they are."""
    begin = place + struct.calcsize(layout.counter)
    _check_extent(data, place, begin - place)
    entries = _number(data, place, layout.order + layout.counter)
    _check_extent(data, begin, entries * layout.entry + layout.inline)
    return begin, entries


def _check_extent(data: Raw, begin: int, size: int) -> None:
    if begin + size > len(data):
        raise DecodeError(
            "truncated", f"TIFF of {len(data)} bytes points to bytes {begin} to {begin + size}"
        )


def check_tiff(data: Raw, *, sparse: bool = False, max_values: int = 2**30) -> list[Directory]:
    """Return the pages of a TIFF whose pixel data all lie inside the file.

    Args:
        data: the whole file, or its source; only its directories are read.
        sparse: allow strips that were never written (offset and size 0), as GDAL does for nodata.
        max_values: refuse more (width x height x samples, over all pages), from the header.

    Raises:
        DecodeError: truncated, too_large or decode_error.
    """
    pages = read_directories(data)
    total = sum(page.values for page in pages)
    if total > max_values:
        raise DecodeError("too_large", f"TIFF of {total} values; at most {max_values} are decoded")
    for number, page in enumerate(pages):
        _check_page(page, f"TIFF page {number}", sparse)
    _check_extents(pages, len(data))
    return pages


def _check_page(page: Directory, where: str, sparse: bool) -> None:
    """Refuse a page whose list of strips or tiles cannot hold its pixels."""
    if not page.values:
        size = f"{page.first(_WIDTH)}x{page.first(_HEIGHT)}"
        raise DecodeError("decode_error", f"{where}: {size} pixels, {page.first(_SAMPLES)} samples")
    if len(page.offsets) != len(page.sizes) or len(page.offsets) < page.segments:
        raise DecodeError(
            "decode_error",
            f"{where}: {len(page.offsets)} offsets and {len(page.sizes)} sizes "
            f"of {page.segments} strips or tiles",
        )
    if 0 in page.sizes:
        if not sparse:
            raise DecodeError("truncated", f"{where}: a strip was never written")
        return
    plain = page.first(_COMPRESSION, 1) == 1 and page.first(_PHOTOMETRIC) != _YCBCR
    needed = page.values * page.first(_BITS, 1) // 8
    if plain and sum(page.sizes) < needed:
        raise DecodeError(
            "truncated", f"{where}: strips of {sum(page.sizes)} bytes, its pixels need {needed}"
        )


def _check_extents(pages: Sequence[Directory], length: int) -> None:
    """Refuse pixel data beyond the end: cut off, or, where other data lie behind it, misplaced."""
    beyond, total, last = [], 0, 0
    for page in pages:
        offsets, sizes = (np.array(v, np.float64) for v in (page.offsets, page.sizes))
        outside = offsets + sizes > length  # float64 is exact up to 2**53 bytes
        beyond += list(zip(offsets[outside].tolist(), sizes[outside].tolist(), strict=True))
        total += len(offsets)
        last = max(last, int(offsets[offsets < length].max(initial=0)))
    if not beyond:
        return
    offset, size = (int(value) for value in min(beyond))
    raise DecodeError(
        "decode_error" if offset < last else "truncated",
        f"TIFF of {length} bytes: {len(beyond)} of {total} strips or tiles lie beyond "
        f"its end, the first at bytes {offset} to {offset + size}",
    )
