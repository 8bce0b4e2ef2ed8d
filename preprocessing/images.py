"""Pictures: bytes to RGB arrays, and raw files to what a shard stores.

One set of rules, for training and ingest alike: EXIF orientation is applied, palettes are expanded,
CMYK becomes RGB, alpha is dropped (the colours under it stay as stored), an animation is its first
frame.
"""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from preprocessing.encoded import Encoded
from preprocessing.errors import DecodeError
from preprocessing.image_headers import DAMAGE, OTHER_FORMATS, ImageHeader, read_header

MAX_PIXELS = 100_000_000
_STORED_AS_IS = ("jpg", "png", "webp")
_REDUCED = {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4}
_REDUCED |= {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 1: 0}
"a JPEG decoder's own scaling; together with a colour flag it is the reduced colour mode"


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.generic]:
    """Return the pixels of a raw picture, checked to be whole.

    Args:
        data: a file in any format that OpenCV reads, recognised by content.
        max_pixels: refuse more than these, from the header.

    Returns:
        (H, W, 3) uint8 RGB, or for greyscale (H, W) uint8 or uint16, upright.

    Raises:
        DecodeError: see `read_header`; also decode_error where the decoder gives up.
    """
    header = read_header(data, max_pixels=max_pixels)
    if header.gray:
        return _decode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, header)
    return _decode(data, cv2.IMREAD_COLOR_RGB, header)


def decode_rgb(data: bytes) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8 RGB of a stored picture; for bytes that ingest has checked.

    Grey is repeated to three channels. Of 16 bits the upper 8 are kept: of grey value // 256, of
    colours what the decoder rounds to, within 1 of it.

    Raises:
        DecodeError: the decoder gives up.
    """
    return _decode(data, cv2.IMREAD_COLOR_RGB, None)  # type: ignore[return-value]  # COLOR is uint8


def encode_image(
    data: bytes, *, short_side: int | None, quality: int = 90, max_pixels: int = MAX_PIXELS
) -> tuple[Encoded, NDArray[np.uint8]]:
    """Return how a raw picture is stored, and its pixels.

    Bytes are passed through untouched where no resize is asked, or the picture is no larger;
    formats other than JPEG, PNG and WebP become PNG. A resized picture becomes JPEG (16 bits: PNG).

    Args:
        data: the raw file.
        short_side: scale the shorter edge to this; None keeps the size. Nothing is enlarged.
        quality: of JPEG, 0 to 100.

    Returns:
        The payload, and (H, W, 3) uint8 RGB: what training will decode, except that a resized
        picture's pixels are those before JPEG's loss.

    Raises:
        DecodeError: see `decode_image`.
    """
    if short_side is not None and short_side < 1:
        raise ValueError(
            f"encode_image: short_side is {short_side}; it must be at least 1, or None."
        )
    header = read_header(data, max_pixels=max_pixels)
    if short_side is not None and min(header.height, header.width) > short_side:
        ext, payload, small = _encode_resized(data, header, short_side, quality)
        if small.dtype == np.uint8:
            turn = cv2.COLOR_GRAY2RGB if header.gray else cv2.COLOR_BGR2RGB
            rgb = cv2.cvtColor(small.view(np.uint8), turn)
            return Encoded(ext, payload, rgb.shape, "uint8"), rgb  # type: ignore[return-value]
    elif header.format in _STORED_AS_IS:
        ext, payload = header.format, data
    else:
        ext, payload = "png", _imencode(".png", _decode(data, _bgr_flags(header), header))
    pixels = _decode(payload, cv2.IMREAD_COLOR_RGB, header)
    return Encoded(ext, payload, pixels.shape, "uint8"), pixels  # type: ignore[return-value]


def _encode_resized(
    data: bytes, header: ImageHeader, short_side: int, quality: int
) -> tuple[str, bytes, NDArray[np.generic]]:
    """Return extension, bytes and (BGR or grey) pixels of a picture scaled down by area means."""
    times = min(header.height, header.width) / short_side
    reduce = max(factor for factor in _REDUCED if factor <= times)
    flags = _bgr_flags(header)
    if header.format == "jpg" and reduce > 1:
        flags |= _REDUCED[reduce]
    pixels = _decode(data, flags, header)
    small = resize_area(pixels, short_side)
    if header.sixteen_bit:
        return "png", _imencode(".png", small), small
    return "jpg", _imencode(".jpg", small, cv2.IMWRITE_JPEG_QUALITY, quality), small


def resize_area(pixels: NDArray[np.generic], short_side: int) -> NDArray[np.generic]:
    """Return (H, W) or (H, W, C) pixels scaled by area means to a shorter edge of `short_side`.

    A picture less than twice as large is brought to exactly twice the size first, by linear
    interpolation: each pixel is then the mean of four samples less than a source pixel apart, so
    nothing aliases, and OpenCV has vector code for both steps. On photographs it differs from
    OpenCV's area means of any factor by 49 dB (JPEG's own loss at quality 90 is 38) and takes
    under half of their time.
    """
    height, width = pixels.shape[:2]
    scale = short_side / min(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size[0] * 2 > width > size[0] and size[1] * 2 > height > size[1]:
        pixels = resize(pixels, (2 * size[0], 2 * size[1]), cv2.INTER_LINEAR)
    return resize(pixels, size, cv2.INTER_AREA)


def resize(pixels: NDArray[np.generic], size: tuple[int, int], mode: int) -> NDArray[np.generic]:
    """Return (H, W) or (H, W, C) pixels scaled to (width, height) by one of OpenCV's modes."""
    return cv2.resize(pixels, size, interpolation=mode)  # type: ignore[arg-type]  # any real dtype


def _bgr_flags(header: ImageHeader) -> int:
    """Return how to decode for OpenCV's encoders, which take BGR."""
    if header.gray:
        return cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH * header.sixteen_bit
    return cv2.IMREAD_COLOR_BGR


def _decode(data: bytes, flags: int, header: ImageHeader | None) -> NDArray[np.generic]:
    """Run OpenCV's decoder.

    Raises:
        DecodeError: it gives up.
    """
    what = f"{header.format} of {header.width}x{header.height}" if header else "stored picture"
    try:
        pixels: NDArray[np.generic] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DecodeError("decode_error", f"{what}: OpenCV failed ({error.err})") from error
    if pixels is None and header is not None and header.format not in _STORED_AS_IS:
        pixels = _decode_by_pillow(data, flags, header)
    if pixels is None:
        raise DecodeError("decode_error", f"{what}, {len(data)} bytes: OpenCV cannot decode it")
    return pixels


def _decode_by_pillow(data: bytes, flags: int, header: ImageHeader) -> NDArray[np.generic] | None:
    """Return what OpenCV's flags ask for, of a format that OpenCV was built without."""
    mode = "L" if header.gray else "RGB"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=OTHER_FORMATS) as image:
                upright = ImageOps.exif_transpose(image)
                pixels = np.asarray(upright if header.sixteen_bit else upright.convert(mode))
    except DAMAGE:
        return None
    return pixels[..., ::-1] if mode == "RGB" and flags == cv2.IMREAD_COLOR_BGR else pixels


def _imencode(ext: str, pixels: NDArray[np.generic], *parameters: int) -> bytes:
    done, buffer = cv2.imencode(ext, pixels, parameters)  # type: ignore[arg-type]  # uint8, uint16
    if not done:
        raise RuntimeError(f"encode_image: OpenCV could not encode {pixels.shape} as {ext}.")
    return bytes(buffer)
