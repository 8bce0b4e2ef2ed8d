"""Pictures: what each kind decodes to, what is refused, what a shard stores."""

from __future__ import annotations

import io
import pickle
import random

import cv2
import numpy as np
import pytest
from PIL import Image

from preprocessing.errors import DecodeError
from preprocessing.image_headers import read_header
from preprocessing.images import decode_image, encode_image
from preprocessing.payloads import Encoded, decode_payload
from tests.unit.preprocessing.raw_media import SHARED, needs_shared, picture, smooth

PHOTO = smooth(60, 90)


def reason(data: bytes, **options: int) -> str:
    with pytest.raises(DecodeError) as caught:
        decode_image(data, **options)
    return caught.value.reason_class


def pillow_bytes(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("ext", "name"), [(".png", "png"), (".bmp", "bmp"), (".tiff", "tif")])
def test_lossless_formats_decode_exactly(ext: str, name: str) -> None:
    data = picture(ext, PHOTO)
    assert read_header(data, max_pixels=10**6).format == name
    assert np.array_equal(decode_image(data), PHOTO)


def test_a_jpeg_decodes_as_pillow_decodes_it() -> None:
    data = picture(".jpg", PHOTO)
    assert np.array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data))))


def test_grey_keeps_its_depth_and_is_stored_as_three_channels_of_8_bits() -> None:
    ramp = np.linspace(0, 65535, 40 * 50).reshape(40, 50).astype(np.uint16)
    data = picture(".png", ramp)
    assert np.array_equal(decode_image(data), ramp)
    encoded, pixels = encode_image(data, short_side=None)
    assert encoded == Encoded("png", data, (40, 50, 3), "uint8")
    assert np.array_equal(pixels, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, 2))
    small = encode_image(data, short_side=20)[0]
    assert decode_image(small.payload).dtype == np.uint16


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_dropped(mode: str) -> None:
    image = Image.fromarray(PHOTO).convert(mode)
    image.putalpha(7)
    expected = np.asarray(image)[..., :3] if mode == "RGBA" else np.asarray(image)[..., 0]
    assert np.array_equal(decode_image(pillow_bytes(image, "PNG")), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = pillow_bytes(Image.fromarray(PHOTO), "JPEG", exif=exif, quality=95)
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(decode_image(data), expected)
    encoded, pixels = encode_image(data, short_side=None)
    assert encoded.payload is data and np.array_equal(pixels, expected)
    assert encode_image(data, short_side=30)[1].shape == ((30, 45, 3), (45, 30, 3))[orientation > 4]


def test_an_animation_is_its_first_frame_stored_as_png() -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "green", "blue")]
    data = pillow_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])
    encoded, pixels = encode_image(data, short_side=None)
    assert encoded.ext == "png" and (pixels == (255, 0, 0)).all()


def test_bytes_pass_untouched_where_nothing_is_to_be_done() -> None:
    for ext in (".jpg", ".png", ".webp"):
        data = picture(ext, PHOTO)
        for short_side in (None, 60, 1000):
            encoded, pixels = encode_image(data, short_side=short_side)
            assert encoded == Encoded(ext[1:], data, (60, 90, 3), "uint8")
            assert np.array_equal(pixels, decode_payload(encoded.ext, encoded.payload))


@pytest.mark.parametrize("short_side", [20, 40, 59])
def test_a_resize_is_by_area_means_also_through_the_scaled_decoder(short_side: int) -> None:
    photo = cv2.GaussianBlur(smooth(240, 360), (0, 0), 6)
    data = picture(".jpg", photo, cv2.IMWRITE_JPEG_QUALITY, 98)
    encoded, pixels = encode_image(data, short_side=short_side, quality=98)
    size = round(short_side * 1.5), short_side
    expected = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    assert encoded.ext == "jpg" and pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 3
    assert encode_image(data, short_side=short_side, quality=98)[0] == encoded


OTHERS = {
    "JPEG2000": {"irreversible": False},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "GIF": {},
    "PPM": {},
    "TIFF": {"compression": "zstd"},
    "WEBP": {"lossless": True},
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_formats_that_a_library_reads_are_what_pillow_sees(kind: str, mode: str) -> None:
    image = Image.fromarray(PHOTO).convert(mode)
    image = image.quantize(255).convert("RGB") if kind == "GIF" else image
    data = pillow_bytes(image, kind, **OTHERS[kind])
    if not Image.open(io.BytesIO(data)).width:
        pytest.skip(f"Pillow writes no {kind} here")
    pixels = decode_image(data)
    seen = Image.open(io.BytesIO(data)).convert("L" if pixels.ndim == 2 else "RGB")
    assert np.array_equal(pixels, np.asarray(seen))
    encoded, stored = encode_image(data, short_side=None)
    assert encoded.ext == ("webp" if kind == "WEBP" else "png")
    assert np.array_equal(stored, np.asarray(seen.convert("RGB")))
    assert encode_image(data, short_side=30)[1].shape == (30, 45, 3)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "TGA", "PCX", "ICO"])
def test_formats_that_nobody_reads_safely_are_unrecognised(kind: str) -> None:
    assert reason(pillow_bytes(Image.fromarray(PHOTO), kind)) == "unrecognised_format"


@pytest.mark.parametrize("kind", ["AVIF", "WEBP", "GIF", "TIFF", "JPEG2000", "PNG", "JPEG"])
def test_any_damage_is_a_decode_error_or_a_picture(kind: str) -> None:
    """Of whatever kind the library's own errors are: one of them would end a whole ingest."""
    whole = pillow_bytes(Image.fromarray(PHOTO[:30, :40]), kind)
    draw = random.Random(kind)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 2, 6))):
            data[draw.randrange(min(len(data), draw.choice((200, 10**6))))] = draw.randrange(256)
        try:
            encode_image(bytes(data), short_side=None)
        except DecodeError as error:
            assert error.detail


def test_heic_is_unrecognised() -> None:
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    assert reason(head) == "unrecognised_format"


def test_sixteen_bits_a_colour_keep_their_upper_eight() -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    for ext in (".png", ".tiff"):
        data = picture(ext, deep)
        seen = decode_image(data)
        assert seen.dtype == np.uint8
        assert np.abs(seen.astype(int) - (deep >> 8)).max() <= 1, "decoders round, none clips"


def test_an_animated_webp_or_png_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "green", "blue")]
    for kind, options in (("WEBP", {"lossless": True}), ("PNG", {}), ("AVIF", {"quality": 100})):
        data = pillow_bytes(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        pixels = encode_image(data, short_side=None)[1]
        assert pixels.shape == (10, 20, 3)
        assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 2


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_emptiest_jpegs_are_taken_but_none_with_too_few_bytes(
    subsampling: int, progressive: bool
) -> None:
    """A decoder would fill what is missing with grey."""
    options = {"subsampling": subsampling, "progressive": progressive, "optimize": True}
    for size in ((8, 8), (1, 1), (333, 7), (2000, 1999)):
        image = Image.new("RGB", size, "white")
        data = pillow_bytes(image, "JPEG", quality=1, **options)
        assert decode_image(data).shape == (size[1], size[0], 3)
        assert decode_image(pillow_bytes(image.convert("L"), "JPEG", optimize=True)).ndim == 2
    data = pillow_bytes(Image.fromarray(PHOTO), "JPEG", **options)
    place = data.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    for size in ((9000, 9000), (60, 65000)):
        grown = data[:place] + np.array(size, ">u2").tobytes() + data[place + 4 :]
        assert reason(grown) == "truncated"


@pytest.mark.parametrize("ext", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
def test_every_cut_is_refused_as_truncated(ext: str) -> None:
    data = picture(ext, PHOTO)
    for end in np.linspace(30, len(data) - 1, 25).astype(int):
        assert reason(data[:end]) == "truncated", f"{ext} cut at {end} of {len(data)}"


def test_a_wrong_checksum_is_refused() -> None:
    data = bytearray(picture(".png", PHOTO))
    data[len(data) // 2] ^= 1
    assert reason(bytes(data)) == "decode_error"


def test_other_things_are_refused_by_class() -> None:
    assert reason(b"") == "empty_file"
    assert reason(b"hello, this is text and no picture") == "unrecognised_format"
    assert reason(picture(".png", PHOTO), max_pixels=60 * 90 - 1) == "too_large"
    assert reason(picture(".webp", PHOTO), max_pixels=60 * 90 - 1) == "too_large"
    floats = Image.fromarray(np.ones((4, 4), np.float32))
    assert reason(pillow_bytes(floats, "TIFF")) == "unrecognised_format"


def test_a_decode_error_survives_a_process_boundary_and_names_its_class() -> None:
    error = pickle.loads(pickle.dumps(DecodeError("truncated", "cut at 7")))
    assert (error.reason_class, error.detail, str(error)) == (
        "truncated",
        "cut at 7",
        "truncated: cut at 7",
    )
    with pytest.raises(ValueError, match=r"broken.*Known: decode_error"):
        DecodeError("broken", "")


def test_stored_bytes_that_are_no_picture_are_refused() -> None:
    for ext in ("jpg", "png", "mp4", "tif"):
        with pytest.raises(DecodeError):
            decode_payload(ext, b"not what the extension says")
    with pytest.raises(DecodeError, match="known: jpg, png, webp, mp4, tif"):
        decode_payload("txt", b"")


@needs_shared
@pytest.mark.slow
def test_real_photos_decode_as_pillow_decodes_them() -> None:
    from PIL import ImageOps

    for file in sorted((SHARED / "images" / "imagenet-sample").glob("*.JPEG")):
        data = file.read_bytes()
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert np.array_equal(decode_image(data), np.asarray(image)), file.name
