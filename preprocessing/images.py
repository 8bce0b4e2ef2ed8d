"""Images: encoded bytes to arrays, strictly, and to what a shard stores.

Rules: EXIF orientation is applied; transparent pixels are composited on black; palettes are applied; CMYK becomes RGB;
of an animation the first frame counts. What a file's header says is checked before any pixel is allocated.
"""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from preprocessing.errors import DecodeError
from preprocessing.payloads import Encoded

MAX_PIXELS = 100_000_000
_PASS_THROUGH = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS, strict: bool = True) -> Pixels:
    """Return an image as (H, W, 3) uint8 RGB, or grey as (H, W) uint8 or uint16.

    Args:
        strict: also find truncation and wrong checksums that OpenCV passes over; off for bytes checked at ingest.

    Raises:
        DecodeError: empty_file, unrecognised_format, too_large, truncated or decode_error.
    """
    header = _open(data, max_pixels)
    if strict:
        _check_whole(header, data)
    if header.format in _PASS_THROUGH and header.mode in ("L", "RGB", "I;16", "YCbCr"):
        colour = cv2.IMREAD_GRAYSCALE if header.mode in ("L", "I;16") else cv2.IMREAD_COLOR_RGB
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), colour | cv2.IMREAD_ANYDEPTH)
        if pixels is not None:
            return _narrow(pixels)
    return _by_pillow(data)


def encode_image(
    data: bytes, *, short_side: int | None, quality: int = 90, max_pixels: int = MAX_PIXELS
) -> tuple[Encoded, Pixels]:
    """Return the payload to store for an image, and its pixels.

    Without `short_side` JPEG, PNG and WebP bytes pass through untouched; other formats become PNG. With it the image is
    scaled (area averaging) so that its shorter edge has that many pixels, smaller ones are left at their size, and
    stored as JPEG, or as PNG where it has 16 bits.

    Raises:
        DecodeError: as `decode_image`.
    """
    header = _open(data, max_pixels)
    if short_side is None:
        pixels = decode_image(data, max_pixels=max_pixels)
        ext = _PASS_THROUGH.get(header.format or "")
        if ext and header.mode in ("L", "RGB", "I;16", "CMYK", "YCbCr", "P", "RGBA", "LA", "1", "I"):
            return Encoded(ext, data, pixels.shape, str(pixels.dtype)), pixels
        return Encoded("png", _to_png(pixels), pixels.shape, str(pixels.dtype)), pixels
    pixels = _resize(_scaled_decode(data, header, short_side), short_side)
    if pixels.dtype == np.uint16:
        return Encoded("png", _to_png(pixels), pixels.shape, "uint16"), pixels
    return Encoded("jpg", to_jpeg(pixels, quality), pixels.shape, "uint8"), pixels


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header alone and check what it promises."""
    if not data:
        raise DecodeError("empty_file", "0 bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise DecodeError("too_large", str(error)) from error
    except UnidentifiedImageError as error:
        raise DecodeError("unrecognised_format", f"begins with {data[:12]!r}, no image format") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise DecodeError("decode_error", str(error)) from error
    width, height = image.size
    if width * height > max_pixels:
        raise DecodeError("too_large", f"header says {width}x{height} px, {max_pixels} pixels are allowed")
    return image


def _check_whole(header: Image.Image, data: bytes) -> None:
    """Find files that end early or whose checksums are wrong."""
    if header.format == "JPEG":
        if b"\xff\xd9" not in data[-4096:]:
            _by_pillow(data)  # raises where the stream ends early; bytes after its end are harmless
    elif header.format == "PNG":
        try:
            header.verify()
        except (OSError, SyntaxError, ValueError) as error:
            kind = "decode_error" if b"IEND" in data[-64:] else "truncated"
            raise DecodeError(kind, f"PNG: {error}") from error


def _by_pillow(data: bytes) -> Pixels:
    """Decode what OpenCV gets wrong or does not know: CMYK, alpha, palettes, GIF, exotic depths."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            image.load()
            image = ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, IndexError) as error:
        kind = "truncated" if "truncated" in str(error).lower() else "decode_error"
        raise DecodeError(kind, str(error)) from error
    if image.mode.startswith("I"):
        return _narrow(np.asarray(image))
    if image.mode in ("L", "1"):
        return np.asarray(image.convert("L"))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, rgba)
    return np.asarray(image.convert("RGB"))


def _narrow(pixels: NDArray[np.generic]) -> Pixels:
    """Return pixels of 8 or 16 bits; wider integers are taken as 16-bit values."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    if pixels.dtype.kind not in "iu" or int(pixels.min()) < 0 or int(pixels.max()) > 65535:
        raise DecodeError("decode_error", f"pixels of type {pixels.dtype} beyond 16 bits are no image")
    narrow = pixels.astype(np.uint16)
    return narrow if narrow.ndim == 2 else (narrow // 257).astype(np.uint8)


def _scaled_decode(data: bytes, header: Image.Image, short_side: int) -> Pixels:
    """Decode a JPEG at 1/2, 1/4 or 1/8 where that still leaves at least twice the pixels asked for."""
    factor = min(header.size) // (2 * short_side)
    flags = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
    scale = next((step for step in (8, 4, 2) if factor >= step), 0)
    if header.format == "JPEG" and header.mode in ("RGB", "YCbCr") and scale:
        _check_whole(header, data)
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags[scale])
        if pixels is not None:
            return np.ascontiguousarray(pixels[..., ::-1], dtype=np.uint8)
    return decode_image(data)


def _resize(pixels: Pixels, short_side: int) -> Pixels:
    height, width = pixels.shape[:2]
    if min(height, width) <= short_side:
        return pixels
    scale = short_side / min(height, width)
    size = (max(round(width * scale), short_side), max(round(height * scale), short_side))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def to_jpeg(pixels: NDArray[np.uint8], quality: int = 90) -> bytes:
    """Return (H, W, 3) RGB or (H, W) grey uint8 as JPEG."""
    return _encode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])


def _to_png(pixels: Pixels) -> bytes:
    return _encode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])


def _encode(ext: str, pixels: Pixels, options: list[int]) -> bytes:
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    done, data = cv2.imencode(ext, bgr, options)
    if not done:
        raise DecodeError("decode_error", f"pixels of shape {pixels.shape} could not be stored as {ext}")
    return data.tobytes()
