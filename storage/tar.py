"""The tar bytes of a shard: one layout, so that the same members give the same bytes.

A member is a 512-byte USTAR header (mode 0444, owner 0, time 0), the data, and zeros up to a
multiple of 512. Names over 100 bytes come in a GNU long-name record before it. The end is zeros, up
to a multiple of 10240.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 512
RECORD = 10240
MAX_SIZE = 8**11 - 1
_NAME_BYTES = 100
_CHECKSUM = slice(148, 156)
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a pipe",
    b"x": "an extended (PAX) record",
    b"g": "a global (PAX) record",
    b"S": "a sparse file",
}


class Member(NamedTuple):
    """A file in a tar, and where its bytes lie."""

    name: str
    offset: int
    size: int


def _blank_header() -> bytes:
    info = tarfile.TarInfo("")
    info.mode = 0o444
    return info.tobuf(tarfile.USTAR_FORMAT)


_BLANK = _blank_header()
_BLANK_SUM = sum(_BLANK[: _CHECKSUM.start]) + sum(_BLANK[_CHECKSUM.stop :]) + 8 * ord(" ")
_BLANK_SUM -= 11 * ord("0")  # the digits of the size


def header(name: str, size: int) -> bytes:
    """Return the header of a member: 512 bytes, or three blocks and more for a name over 100 bytes.

    Raises:
        ValueError: more bytes than a tar header can state.
    """
    if size > MAX_SIZE:
        raise ValueError(
            f"member {name}: has {size} bytes; a tar holds up to {MAX_SIZE}. Split it."
        )
    encoded = name.encode()
    if len(encoded) > _NAME_BYTES:
        info = tarfile.TarInfo(name)
        info.mode, info.size = 0o444, size
        return info.tobuf(tarfile.GNU_FORMAT)
    digits = b"%011o" % size
    total = b"%06o\0 " % (_BLANK_SUM + sum(encoded) + sum(digits))
    return b"".join(
        (
            encoded.ljust(_NAME_BYTES, b"\0"),
            _BLANK[100:124],
            digits,
            _BLANK[135:148],
            total,
            _BLANK[156:],
        )
    )


def padding(size: int) -> bytes:
    """Return the zeros that follow data of a size."""
    return bytes(-size % BLOCK)


def end(position: int) -> bytes:
    """Return the zeros that end a tar whose members take `position` bytes."""
    return bytes(2 * BLOCK + -(position + 2 * BLOCK) % RECORD)


def members(data: bytes) -> Iterator[Member]:
    """Yield the members of a shard, comparing all other bytes with what they must be.

    Raises:
        ValueError: the first byte that differs, and after which member. The caller adds the shard's
            name.
    """
    position, last = 0, "the start"
    while any(data[position : position + BLOCK]):
        member = _member_at(data, position, last)
        yield member
        last = member.name
        position = member.offset + member.size
        zeros = padding(member.size)
        if data[position : position + len(zeros)] != zeros:
            raise ValueError(f"the bytes after the data of {last} are not zeros, or are missing")
        position += len(zeros)
    found, wanted = len(data) - position, len(end(position))
    if found != wanted or any(data[position:]):
        raise ValueError(f"after {last} there are {found} bytes, wanted an end of {wanted} zeros")


def _member_at(data: bytes, position: int, last: str) -> Member:
    name, start = _name_at(data, position, last)
    block = data[start : start + BLOCK]
    if len(block) < BLOCK:
        raise ValueError(f"the file ends inside the header after {last}")
    try:
        size = int(block[124:135], 8)
    except ValueError:
        size = -1
    offset = start + BLOCK
    if size < 0 or header(name, size) != data[position:offset]:
        raise ValueError(_what_is_wrong(block, name, last))
    if offset + size > len(data):
        raise ValueError(f"{name} is cut short: {max(len(data) - offset, 0)} of {size} bytes")
    return Member(name, offset, size)


def _name_at(data: bytes, position: int, last: str) -> tuple[str, int]:
    """Return a member's name and where its own header begins."""
    start, encoded = position, data[position : position + _NAME_BYTES].rstrip(b"\0")
    try:
        if data[position + 156 : position + 157] == b"L":
            size = int(data[position + 124 : position + 135], 8)
            start = position + BLOCK + size + len(padding(size))
            encoded = data[position + BLOCK : position + BLOCK + size].rstrip(b"\0")
        return encoded.decode(), start
    except ValueError as error:
        raise ValueError(f"the header after {last} is damaged") from error


def _what_is_wrong(block: bytes, name: str, last: str) -> str:
    """Say why a header is not ours: damaged, of another kind, or written by another program."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError):
        return f"the header after {last} is damaged"
    kind = block[156:157]
    if kind in _KINDS:
        return f"{name} is {_KINDS[kind]}, a shard holds plain files only"
    return f"the header of {name} is not as headrace writes it"
