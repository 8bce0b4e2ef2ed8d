"""What a picture's bytes say about themselves, read before any pixel is allocated.

Decoders are lenient: they fill what is missing with grey. So the structure of the common formats is
walked here, and a file that ends early or fails its checksums is refused before it is decoded.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from preprocessing.errors import DecodeError
from preprocessing.tiff_structure import check_tiff, is_tiff

_PNG = b"\x89PNG\r\n\x1a\n"
_STANDALONE = frozenset((0x01, 0xD8, *range(0xD0, 0xD8)))
"JPEG markers without a length"
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
"tags of a TIFF"
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
OTHER_FORMATS = ("AVIF", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP")
"""what Pillow may look for behind JPEG and PNG. It knows more; some of those have no signature of
their own, some start other programs (EPS)"""
DAMAGE = (OSError, SyntaxError, ValueError, RuntimeError, struct.error)
"what Pillow raises for damaged bytes; RuntimeError is AVIF's"
_GRAY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The size and kind of a stored picture, before its orientation is applied."""

    format: str
    "jpg, png, webp, gif, bmp, tif ...: by content, not by name"
    width: int
    height: int
    gray: bool
    sixteen_bit: bool = False


def read_header(data: bytes, *, max_pixels: int) -> ImageHeader:
    """Return the header of a whole picture.

    Raises:
        DecodeError: empty_file, unrecognised_format, truncated, too_large or decode_error.
    """
    if not data:
        raise DecodeError("empty_file", "0 bytes")
    if data.startswith(b"\xff\xd8\xff"):
        header = _jpeg_header(data, max_pixels)
    elif data.startswith(_PNG):
        header = _png_header(data, max_pixels)
    else:
        header = _other_header(data, max_pixels)
    if header.width < 1 or header.height < 1:
        raise DecodeError("decode_error", f"the header says {header.width}x{header.height} pixels")
    _check_size(header.width, header.height, max_pixels)
    return header


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise DecodeError(
            "too_large", f"{width}x{height} pixels; at most {max_pixels} are decoded (max_pixels)"
        )


def _jpeg_header(data: bytes, max_pixels: int) -> ImageHeader:
    """Walk the markers up to the scan, and look for the end marker behind it."""
    place, header, least = 2, None, 0
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            raise DecodeError("decode_error", f"JPEG: no marker at byte {place}")
        marker = data[place + 1]
        if marker == 0xFF or marker in _STANDALONE:
            place += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if marker in _FRAME_MARKERS and place + 10 <= len(data):
            height, width, parts = struct.unpack(">HHB", data[place + 5 : place + 10])
            header = ImageHeader("jpg", width, height, gray=parts == 1)
            _check_size(width, height, max_pixels)
            least = _least_scan_bytes(marker, width, height, data[place + 10 : place + 2 + length])
        if marker == 0xDA:
            break
        place += 2 + max(length, 2)
    if place + 4 > len(data) or data.rfind(b"\xff\xd9", place) < 0:
        raise DecodeError("truncated", f"JPEG of {len(data)} bytes without its end marker")
    if header is None:
        raise DecodeError("decode_error", "JPEG: a scan without a frame header")
    if len(data) - place < least:
        raise DecodeError(
            "truncated",
            f"JPEG of {header.width}x{header.height} pixels with {len(data) - place} bytes of "
            f"scans; they need at least {least}",
        )
    return header


def _least_scan_bytes(marker: int, width: int, height: int, components: bytes) -> int:
    """Return fewer bytes than any scan of these blocks has: a decoder would fill up with grey.

    Each block of 8x8 values has a Huffman code of one bit or more for its mean, and in a sequential
    frame one more for its end. Other frames (progressive: runs of ends; arithmetic, lossless) have
    less that is sure.
    """
    bits = {0xC0: 2, 0xC1: 2, 0xC2: 1}.get(marker, 0)
    factors = [(byte >> 4, byte & 15) for byte in components[1::3]]
    if not all(across and down for across, down in factors) or not factors:
        return 0
    most = max(across for across, _ in factors), max(down for _, down in factors)
    blocks = sum(
        -(-width * across // (8 * most[0])) * -(-height * down // (8 * most[1]))
        for across, down in factors
    )
    return blocks * bits // 8


def _png_header(data: bytes, max_pixels: int) -> ImageHeader:
    """Walk the chunks, checking lengths and checksums."""
    if len(data) < 33:
        raise DecodeError("truncated", f"PNG of {len(data)} bytes, shorter than its header")
    width, height, depth, color = struct.unpack(">IIBB", data[16:26])
    _check_size(width, height, max_pixels)
    place, view = len(_PNG), memoryview(data)
    while place + 12 <= len(data):
        length = int.from_bytes(view[place : place + 4], "big")
        kind, end = bytes(view[place + 4 : place + 8]), place + 12 + length
        if end > len(data):
            break
        checksum = int.from_bytes(view[end - 4 : end], "big")
        if zlib.crc32(view[place + 4 : end - 4]) != checksum:
            raise DecodeError("decode_error", f"PNG: wrong checksum of chunk {kind!r} at {place}")
        if kind == b"IEND":
            gray = color in (0, 4)
            return ImageHeader("png", width, height, gray=gray, sixteen_bit=gray and depth == 16)
        place = end
    raise DecodeError("truncated", f"PNG of {len(data)} bytes ends before its IEND chunk")


def _other_header(data: bytes, max_pixels: int) -> ImageHeader:
    """Ask Pillow, which reads no further than the header."""
    _check_whole(data, max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=OTHER_FORMATS) as image:
                name, mode, (width, height) = image.format or "", image.mode, image.size
    except Image.DecompressionBombError as error:
        raise DecodeError("too_large", f"{error}; at most {max_pixels} are decoded") from error
    except UnidentifiedImageError as error:
        raise DecodeError(
            "unrecognised_format", f"no known picture format; starts with {data[:16]!r}"
        ) from error
    except DAMAGE as error:
        raise DecodeError("decode_error", f"unreadable header ({error})") from error
    if mode == "F" or (mode == "I" and name == "TIFF"):
        raise DecodeError(
            "unrecognised_format",
            "a picture of floats or of 32 bits; ingest it as microscopy or satellite",
        )
    short = {"TIFF": "tif", "JPEG2000": "jp2", "MPO": "jpg"}.get(name, name.lower())
    return ImageHeader(short, width, height, mode in _GRAY_MODES, mode[0] == "I")


def _check_whole(data: bytes, max_pixels: int) -> None:
    """Refuse what its own length fields show to be cut short."""
    said = 0
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        said = 8 + int.from_bytes(data[4:8], "little")
    elif data[:2] == b"BM" and data[6:10] == bytes(4):
        said = int.from_bytes(data[2:6], "little")
    elif data[:6] in (b"GIF87a", b"GIF89a") and data.rstrip(b"\x00")[-1:] != b";":
        raise DecodeError("truncated", f"GIF of {len(data)} bytes without its end mark")
    elif is_tiff(data):
        for page in check_tiff(data):  # a decoder makes room for a whole tile, whatever the image
            _check_size(page.first(_TILE_WIDTH), page.first(_TILE_HEIGHT), max_pixels)
    if said > len(data):
        raise DecodeError("truncated", f"{len(data)} bytes, the header says {said}")
