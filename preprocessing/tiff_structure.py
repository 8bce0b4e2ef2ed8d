"""The skeleton of a TIFF: its directories and where its pixels lie, checked against the file.

Readers fill missing strips with zeros and skip directories beyond the end; neither is noticed
unless the extents are compared with the bytes that are there.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from preprocessing.errors import DecodeError

_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_TYPE_SIZES |= {13: 4, 16: 8, 17: 8, 18: 8}
_UNSIGNED = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_WIDTH, _HEIGHT, _STRIPS, _STRIP_SIZES, _TILES, _TILE_SIZES = 256, 257, 273, 279, 324, 325
_WANTED = frozenset(
    (_WIDTH, _HEIGHT, _STRIPS, _STRIP_SIZES, _TILES, _TILE_SIZES, 258, 259, 277, 317, 339)
)
MAX_DIRECTORIES = 100_000


@dataclass(frozen=True, slots=True)
class Directory:
    """One page of a TIFF: the unsigned integer tags that say where its pixels are."""

    tags: dict[int, Sequence[int]]

    @property
    def width(self) -> int:
        return self.tags.get(_WIDTH, (0,))[0]

    @property
    def height(self) -> int:
        return self.tags.get(_HEIGHT, (0,))[0]

    @property
    def offsets(self) -> Sequence[int]:
        """Where each strip or tile begins."""
        return self.tags.get(_STRIPS) or self.tags.get(_TILES) or ()

    @property
    def sizes(self) -> Sequence[int]:
        """How many bytes each strip or tile has."""
        return self.tags.get(_STRIP_SIZES) or self.tags.get(_TILE_SIZES) or ()


def is_tiff(data: bytes) -> bool:
    """Tell whether bytes begin as a classic or big TIFF."""
    return data[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


def read_directories(data: bytes) -> list[Directory]:
    """Return the pages of a TIFF in file order.

    Raises:
        DecodeError: truncated, where a directory or a tag's values lie beyond the end.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\x00", b"\x00+")
    head, word = (16, "Q") if big else (8, "I")
    if len(data) < head:
        raise DecodeError("truncated", f"TIFF of {len(data)} bytes, shorter than its header")
    place = struct.unpack_from(order + word, data, 8 if big else 4)[0]
    pages: list[Directory] = []
    seen: set[int] = set()
    while place:
        if place in seen or len(pages) >= MAX_DIRECTORIES:
            raise DecodeError("decode_error", f"TIFF: directory at byte {place} is listed again")
        seen.add(place)
        page, place = _read_directory(data, place, order, big)
        pages.append(page)
    if not pages:
        raise DecodeError("decode_error", "TIFF without a directory")
    return pages


def _read_directory(data: bytes, place: int, order: str, big: bool) -> tuple[Directory, int]:
    """Return one directory and the place of the next, 0 after the last."""
    counter, word, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
    inline = 8 if big else 4
    first = place + struct.calcsize(counter)
    _check_extent(data, place, first - place)
    entries = struct.unpack_from(order + counter, data, place)[0]
    _check_extent(data, first, entries * entry + inline)
    tags: dict[int, Sequence[int]] = {}
    for at in range(first, first + entries * entry, entry):
        tag, kind = struct.unpack_from(order + "HH", data, at)
        count = struct.unpack_from(order + word, data, at + 4)[0]
        size = _TYPE_SIZES.get(kind, 1) * count
        values = at + 4 + inline
        if size > inline:
            values = struct.unpack_from(order + word, data, values)[0]
            _check_extent(data, values, size)
        if tag in _WANTED and kind in _UNSIGNED:
            tags[tag] = struct.unpack_from(f"{order}{count}{_UNSIGNED[kind]}", data, values)
    following = struct.unpack_from(order + word, data, first + entries * entry)[0]
    return Directory(tags), following


def _check_extent(data: bytes, begin: int, size: int) -> None:
    if begin + size > len(data):
        raise DecodeError(
            "truncated", f"TIFF of {len(data)} bytes points to bytes {begin} to {begin + size}"
        )


def check_tiff(data: bytes, *, sparse: bool = False, max_values: int = 2**30) -> list[Directory]:
    """Return the pages of a TIFF whose pixel data all lie inside the file.

    Args:
        data: the whole file.
        sparse: allow strips that were never written (offset and size 0), as GDAL does for nodata.
        max_values: refuse more (width x height x samples, over all pages), from the header.

    Raises:
        DecodeError: truncated, too_large or decode_error.
    """
    pages = read_directories(data)
    total = 0
    for number, page in enumerate(pages):
        values = page.width * page.height * page.tags.get(277, (1,))[0]
        if not values:
            raise DecodeError(
                "decode_error", f"TIFF page {number}: {page.width}x{page.height} pixels"
            )
        total += values
        if len(page.offsets) != len(page.sizes) or not page.offsets:
            raise DecodeError("decode_error", f"TIFF page {number}: no list of strips or tiles")
        if not sparse and 0 in page.sizes:
            raise DecodeError("truncated", f"TIFF page {number}: a strip was never written")
    if total > max_values:
        raise DecodeError("too_large", f"TIFF of {total} values; at most {max_values} are decoded")
    _check_extents(pages, len(data))
    return pages


def _check_extents(pages: Sequence[Directory], length: int) -> None:
    """Refuse pixel data beyond the end: cut off, or, where other data lie behind it, misplaced."""
    extents = [pair for page in pages for pair in zip(page.offsets, page.sizes, strict=True)]
    beyond = [(offset, size) for offset, size in extents if offset + size > length]
    if not beyond:
        return
    offset, size = min(beyond)
    misplaced = any(offset < other < length for other, _ in extents)
    raise DecodeError(
        "decode_error" if misplaced else "truncated",
        f"TIFF of {length} bytes: {len(beyond)} of {len(extents)} strips or tiles lie beyond "
        f"its end, the first at bytes {offset} to {offset + size}",
    )
