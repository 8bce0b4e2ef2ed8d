"""Which container some bytes are, and whether they are all there.

The container is told from its own signature and handed to FFmpeg by name: left to guess, FFmpeg
takes text for a playlist and opens the files that it names. Only headers are read, whatever the
size of the file.
"""

from __future__ import annotations

from preprocessing.errors import DecodeError
from preprocessing.source import Source, as_source

_MP4_BOXES = frozenset(
    (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"moof")
)
_SIGNATURES = {
    b"\x1aE\xdf\xa3": "matroska",
    b"FLV\x01": "flv",
    b"OggS": "ogg",
    b"\x30\x26\xb2\x75": "asf",
    b"\x00\x00\x01\xba": "mpeg",
    b"\x00\x00\x01\xb3": "mpegvideo",
}
_EBML_SEGMENT = b"\x18\x53\x80\x67"


def container_of(data: bytes | Source) -> str:
    """Return FFmpeg's name of the container.

    Raises:
        DecodeError: empty_file or unrecognised_format.
    """
    head = as_source(data)[:189]
    if not head:
        raise DecodeError("empty_file", "0 bytes")
    if head[4:8] in _MP4_BOXES:
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:1] == b"G" and head[188:189] == b"G":
        return "mpegts"
    name = _SIGNATURES.get(head[:4])
    if name is None:
        raise DecodeError(
            "unrecognised_format", f"no known video container; starts with {head[:16]!r}"
        )
    return name


def check_whole(data: bytes | Source, container: str) -> None:
    """Refuse a file that is shorter than its own outermost length fields say.

    Raises:
        DecodeError: truncated.
    """
    source = as_source(data)
    if container == "mov":
        _check_boxes(source)
    elif container == "matroska":
        _check_segment(source)
    elif container == "avi":
        _check_end(8 + int.from_bytes(source[4:8], "little"), source, "RIFF list")


def _check_end(end: int, source: Source, what: str) -> None:
    if end > len(source):
        raise DecodeError("truncated", f"{what} ends at byte {end}, the file at {len(source)}")


def _check_boxes(source: Source) -> None:
    """Walk the outermost boxes of an mp4, by their headers of 16 bytes."""
    place, kinds = 0, set()
    while place + 8 <= len(source):
        header = source[place : place + 16]
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if size == 1:
            size = int.from_bytes(header[8:], "big")
        elif size == 0:
            size = len(source) - place
        if size < 8:
            break  # zero padding or rubbish behind the last box
        kinds.add(kind)
        _check_end(place + size, source, f"mp4 box {kind!r}")
        place += size
    if b"moov" not in kinds:
        raise DecodeError("truncated", f"mp4 of {len(source)} bytes without its index (moov)")


def _check_segment(source: Source) -> None:
    """Compare the length of a Matroska segment, where it is known, with the file's."""
    head = source[: 4096 + 16]
    place = head.find(_EBML_SEGMENT, 0, 4096)
    if place < 0:
        raise DecodeError("truncated", "Matroska without a segment in its first 4096 bytes")
    begin = place + 4
    if begin >= len(head) or not head[begin]:
        return
    width = 9 - head[begin].bit_length()
    size = int.from_bytes(head[begin : begin + width], "big") & ((1 << 7 * width) - 1)
    if size != (1 << 7 * width) - 1:  # all ones: a live stream, of unknown length
        _check_end(begin + width + size, source, "Matroska segment")
