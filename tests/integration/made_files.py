"""Broken and awkward files of every reason class, made in memory: name → (bytes, reason class).

An empty reason class means that the file must be accepted.
"""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import tifffile
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from tests.unit.preprocessing.raw_media import geotiff, numbered_video, picture, smooth, tiff

Corpus = dict[str, tuple[bytes, str]]
PHOTO = smooth(60, 90)
TEXT = b"plain text, whatever the name says\n" * 8


def pillow_bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return a picture as Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a PNG chunk with its right checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", _crc(kind, content))


def _crc(kind: bytes, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(kind))


def png(width: int, height: int, *chunks: bytes, data: bytes = b"", depth: int = 8) -> bytes:
    """Return a grey PNG whose header may promise anything."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    pixels = png_chunk(b"IDAT", data or zlib.compress(bytes(64)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + png_chunk(b"IEND", b"")


def patched(data: bytes, place: int, value: bytes) -> bytes:
    """Return bytes with some of them replaced."""
    return data[:place] + value + data[place + len(value) :]


def jpeg_that_says(width: int, height: int) -> bytes:
    """Return a small JPEG whose frame header promises another size."""
    data = picture(".jpg", PHOTO)
    place = data.index(b"\xff\xc0") + 5
    return patched(data, place, struct.pack(">HH", height, width))


def webp_that_says(width: int, height: int) -> bytes:
    """Return a lossy WebP (VP8) whose frame header promises another size."""
    data = pillow_bytes(Image.fromarray(PHOTO), "WEBP", quality=50)
    place = data.index(b"\x9d\x01\x2a") + 3
    return patched(data, place, struct.pack("<HH", width, height))


def gif_that_says(width: int, height: int) -> bytes:
    """Return a GIF whose screen and first frame promise another size."""
    data = pillow_bytes(Image.fromarray(PHOTO[..., 0]), "GIF")
    data = patched(data, 6, struct.pack("<HH", width, height))
    return patched(data, data.index(b"\x2c\0\0\0\0") + 5, struct.pack("<HH", width, height))


def tiff_that_says(width: int, height: int, array: NDArray[np.generic] | None = None) -> bytes:
    """Return a packed TIFF whose directory promises another size, all in one strip."""
    data = tiff(PHOTO[..., 0] if array is None else array, compression="deflate")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        names = ("ImageWidth", "ImageLength", "RowsPerStrip")
        tags = [file.pages[0].tags[name] for name in names]
    for tag, value in zip(tags, (width, height, height), strict=True):
        data = patched(data, tag.valueoffset, struct.pack({3: "<H", 4: "<I"}[tag.dtype], value))
    return data


def image_corpus() -> Corpus:
    """Pictures."""
    jpeg, whole, webp = (picture(ext, PHOTO) for ext in (".jpg", ".png", ".webp"))
    place = whole.index(b"IDAT") + 20
    noise = png(90, 60, data=zlib.compress(bytes(90 * 60))[:-12] + b"\xff" * 12)
    bad: Corpus = {
        "empty.png": (b"", "empty_file"),
        "text.jpg": (TEXT, "unrecognised_format"),
        "cut.jpg": (jpeg[: len(jpeg) * 6 // 10], "truncated"),
        "cut.png": (whole[: len(whole) // 2], "truncated"),
        "cut.webp": (webp[: len(webp) // 2], "truncated"),
        "cut.bmp": (picture(".bmp", PHOTO)[:3000], "truncated"),
        "cut.tif": (tiff(PHOTO)[:4000], "truncated"),
        "cut.gif": (pillow_bytes(Image.fromarray(PHOTO), "GIF")[:-40], "truncated"),
        "checksum.png": (patched(whole, place, bytes(64)), "decode_error"),
        "stream.png": (noise, "decode_error"),
        "bomb.png": (png(40_000, 30_000), "too_large"),
        "bomb.jpg": (jpeg_that_says(65_000, 65_000), "too_large"),
        "bomb.webp": (webp_that_says(16_383, 16_383), "too_large"),
        "bomb.gif": (gif_that_says(60_000, 60_000), "too_large"),
        "bomb.tif": (tiff_that_says(40_000, 40_000), "too_large"),
    }
    return bad | image_accepts()


def image_accepts() -> Corpus:
    """Pictures that are odd and sound; each has content of its own, so that none is a duplicate."""
    upside = Image.Exif()
    upside[0x0112] = 6
    photos = [Image.fromarray(smooth(60, 90, seed=seed)) for seed in range(1, 12)]
    clear = photos[3].convert("RGBA")
    clear.putalpha(7)
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "green", "blue")]
    moving = pillow_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])
    ramp = np.linspace(0, 65535, 40 * 50).reshape(40, 50).astype(np.uint16)
    sound = {
        "turned.jpg": pillow_bytes(photos[0], "JPEG", exif=upside),
        "cmyk.jpg": pillow_bytes(photos[1].convert("CMYK"), "JPEG"),
        "palette.png": pillow_bytes(photos[2].quantize(64), "PNG", transparency=3),
        "alpha.png": pillow_bytes(clear, "PNG"),
        "gray16.png": picture(".png", ramp),
        "moving.gif": moving,
        "jpeg_named.png": pillow_bytes(photos[4], "JPEG"),
        f"long_{'x' * 231}.jpg": pillow_bytes(photos[5], "JPEG"),
        'weird “name” it\'s 100% "ünïcödé" 猫 & $(x) #1.jpg': pillow_bytes(photos[6], "JPEG"),
        "same_stem.jpg": pillow_bytes(photos[7], "JPEG"),
        "same_stem.png": pillow_bytes(photos[8], "PNG"),
        "UPPER.JPG": pillow_bytes(photos[9], "JPEG"),
        "one.png": pillow_bytes(Image.new("RGB", (1, 1), "navy"), "PNG"),
    }
    return {name: (data, "") for name, data in sound.items()}


def audio_only() -> bytes:
    """Return an mp4 with one AAC track."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as target:
        stream = target.add_stream("aac", rate=8000)
        for k in range(8):
            sound = np.zeros((1, 1024), np.float32)
            frame = AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, 1024 * k
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return buffer.getvalue()


def video(pixels: NDArray[np.uint8], *, codec: str = "libx264", rotate: int = 0) -> bytes:
    """Return an mp4 of (T, H, W, 3) frames; `rotate` writes a display matrix."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as target:
        stream = target.add_stream(codec, rate=25)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv444p" if codec == "libx264" else "rgb24"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 25)
        for k, array in enumerate(pixels):
            frame = VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    data = buffer.getvalue()
    return with_rotation(data) if rotate else data


def with_rotation(data: bytes) -> bytes:
    """Return an mp4 whose track header asks for a quarter turn (a matrix in 16.16 fixed point)."""
    place = data.index(b"tkhd") + 4 + 40
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    return patched(data, place, quarter)


def without_frames() -> bytes:
    """Return an mp4 with a video track that holds no frame."""
    buffer = io.BytesIO()
    empty = {"movflags": "frag_keyframe+empty_moov"}
    with av.open(buffer, "w", format="mp4", options=empty) as target:
        stream = target.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        target.start_encoding()
    return buffer.getvalue()


def video_corpus() -> Corpus:
    """Videos, for clips of 8 frames."""
    whole = numbered_video(16)
    place, end = whole.index(b"mdat") + 4, len(whole)
    begin = place + 40
    times = [0, 33, 67, 100, 700, 733, 1500, 1533, 2600, 2633]
    ground = np.stack([smooth(61, 91, seed=seed) for seed in range(8)])
    return {
        "empty.mp4": (b"", "empty_file"),
        "text.mp4": (TEXT, "unrecognised_format"),
        "cut.mp4": (whole[: len(whole) // 2], "truncated"),
        "sound.mp4": (audio_only(), "no_video_stream"),
        "nothing.mp4": (without_frames(), "no_frames"),
        "one_frame.mp4": (numbered_video(1), "too_short"),
        "noise.mp4": (patched(whole, begin, b"\xa5" * min(600, end - begin - 900)), "decode_error"),
        "uneven.mp4": (numbered_video(10, times=times), ""),
        "turned.mp4": (video(ground[:, :60, :90], rotate=90), ""),
        "odd.mp4": (video(ground), ""),
        "whole.mkv": (numbered_video(12, format="matroska"), ""),
    }


def microscopy_corpus() -> Corpus:
    """Fields of three pages."""
    values = np.random.default_rng(5).integers(0, 4096, (3, 32, 32)).astype(np.uint16)
    packed = tiff(values, compression="deflate", photometric="minisblack")
    plain = tiff(values, photometric="minisblack")
    holes = values.astype(np.float32)
    holes[:, :4], holes[1, 9, 9] = np.nan, np.inf
    still = values.copy()
    still[1] = 0
    with tifffile.TiffFile(io.BytesIO(packed)) as file:
        place = file.pages[1].dataoffsets[0] + 2
    return {
        "empty.tif": (b"", "empty_file"),
        "text.tif": (TEXT, "unrecognised_format"),
        "cut.tif": (plain[: len(plain) * 6 // 10], "truncated"),
        "noise.tif": (patched(packed, place, b"\xa5" * 200), "decode_error"),
        "bomb.tif": (tiff_that_says(60_000, 60_000, values[0]), "too_large"),
        "all_nan.tif": (tiff(np.full((3, 32, 32), np.nan, np.float32)), "no_valid_data"),
        "some_nan.tif": (tiff(holes, photometric="minisblack"), ""),
        "constant.tif": (tiff(still, photometric="minisblack"), ""),
        "big_endian.tif": (tiff(values, byteorder=">", photometric="minisblack"), ""),
    }


def satellite_corpus() -> Corpus:
    """Scenes of four bands."""
    values = np.random.default_rng(6).integers(1, 4000, (4, 32, 32)).astype(np.uint16)
    whole = geotiff(values, nodata=0)
    packed = geotiff(values + 1, nodata=0, compress="deflate", blockysize=16)
    holes = values.copy()
    holes[:, :16] = 0
    floats = values.astype(np.float32)
    floats[0, :5] = np.nan
    with tifffile.TiffFile(io.BytesIO(packed)) as file:
        place = file.pages[0].dataoffsets[1] + 2
    return {
        "empty.tif": (b"", "empty_file"),
        "text.tif": (TEXT, "unrecognised_format"),
        "cut.tif": (whole[: len(whole) // 3], "truncated"),
        "noise.tif": (patched(packed, place, b"\xa5" * 200), "decode_error"),
        "bomb.tif": (tiff_that_says(60_000, 60_000, values[0]), "too_large"),
        "no_data.tif": (geotiff(np.zeros_like(values), nodata=0), "no_valid_data"),
        "no_crs.tif": (geotiff(values + 2, crs=None), ""),
        "half_data.tif": (geotiff(holes, nodata=0), ""),
        "some_nan.tif": (geotiff(floats), ""),
    }
