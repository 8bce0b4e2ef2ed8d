"""T4: media that lie about their size or hide it, through the command: refused, memory bounded."""

from __future__ import annotations

import io
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from preprocessing import rasters, videos
from preprocessing.errors import DecodeError
from tests.integration import made_files
from tests.integration.made_files import PHOTO, patched, png, png_chunk
from tests.integration.outcomes import ingest_all, run_with_peak
from tests.integration.raw import make_images
from tests.unit.preprocessing.raw_media import geotiff, numbered_video, picture, tiff

FIXED = ("--dataset", "set", "--direct", "--workers", "1")
MOST_MB = 200


def zeros(megabytes: int) -> bytes:
    """Return a zlib stream that unpacks to that many megabytes of zeros."""
    packer = zlib.compressobj(9)
    piece = bytes(2**20)
    return b"".join([*(packer.compress(piece) for _ in range(megabytes)), packer.flush()])


def pngs() -> dict[str, bytes]:
    """PNGs with 400 MB in chunks that are no pixels, or behind the pixels."""
    big = zeros(400)
    pixels = zlib.compress(bytes(16 * 17))
    text = b"Comment\0\0" + big
    itext = b"Comment\0\1\0\0\0" + big
    profile = b"name\0\0" + big
    return {
        "ztxt.png": png(16, 16, png_chunk(b"zTXt", text), data=pixels),
        "itxt.png": png(16, 16, png_chunk(b"iTXt", itext), data=pixels),
        "iccp.png": png(16, 16, png_chunk(b"iCCP", profile), data=pixels),
        "idat.png": png(16, 16, data=big),
        "many.png": png(16, 16, *[png_chunk(b"tEXt", b"a\0b")] * 20_000, data=pixels),
    }


def with_exif(entries: bytes) -> bytes:
    """Return a JPEG with an Exif block in front."""
    block = b"Exif\0\0MM\0\x2a\0\0\0\x08" + entries
    jpeg = picture(".jpg", PHOTO)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


def exifs() -> dict[str, bytes]:
    """Exif whose directories point at themselves, are nested deep, or promise 4 GB of values."""
    loop = struct.pack(">HHHIII", 1, 0x8769, 4, 1, 8, 8)
    deep = b"".join(
        struct.pack(">HHHIII", 1, 0x8769, 4, 1, 8 + 18 * (n + 1), 0) for n in range(3000)
    )
    wide = struct.pack(">HHHII", 1, 0x0112, 3, 0xFFFFFFFF, 8) + bytes(4)
    many = struct.pack(">H", 0xFFFF) + bytes(12 * 1000)
    return {
        "loop.jpg": with_exif(loop),
        "deep.jpg": with_exif(deep),
        "wide.jpg": with_exif(wide),
        "many.jpg": with_exif(many),
    }


def tiff_bombs() -> dict[str, bytes]:
    """TIFFs with a tile, a strip or a list of tags far larger than the picture."""
    plain = tiff(PHOTO[:16, :16, 0], tile=(16, 16), compression="deflate")
    with made_files.tifffile.TiffFile(io.BytesIO(plain)) as file:
        tags = file.pages[0].tags
        places = [tags[name].valueoffset for name in ("TileWidth", "TileLength")]
        kind = {3: "<H", 4: "<I"}[int(tags["TileWidth"].dtype)]
    found = {}
    for edge in (16_384, 32_000, 65_520):
        found[f"tiles_{edge}.tif"] = plain
        for place in places:
            value = struct.pack(kind, edge)
            found[f"tiles_{edge}.tif"] = patched(found[f"tiles_{edge}.tif"], place, value)
    return {
        **found,
        "loop.tif": with_loop(plain),
    }


def with_loop(data: bytes) -> bytes:
    """Return a TIFF whose first directory says that it comes next."""
    place = struct.unpack("<I", data[4:8])[0]
    entries = struct.unpack("<H", data[place : place + 2])[0]
    return patched(data, place + 2 + 12 * entries, struct.pack("<I", place))


def lying_headers() -> dict[str, bytes]:
    """Headers of 10^9 pixels and more."""
    jp2 = made_files.pillow_bytes(made_files.Image.fromarray(PHOTO), "JPEG2000")
    place = jp2.index(b"ihdr") + 4
    huge = patched(jp2, place, struct.pack(">II", 40_000, 40_000))
    place = huge.index(b"\xff\x51") + 6
    huge = patched(huge, place, struct.pack(">II", 40_000, 40_000))
    bmp = bytearray(picture(".bmp", PHOTO))
    bmp[18:26] = struct.pack("<ii", 40_000, 40_000)
    return {
        "huge.jp2": huge,
        "huge.bmp": bytes(bmp),
        "huge.png": png(2**31 - 1, 2**31 - 1),
        "huge.jpg": made_files.jpeg_that_says(65_500, 65_500),
        "huge.webp": made_files.webp_that_says(16_383, 16_383),
        "huge.gif": made_files.gif_that_says(65_535, 65_535),
        "huge.tif": made_files.tiff_that_says(60_000, 60_000),
        "empty_but_large.jpg": made_files.jpeg_that_says(9_000, 9_000),
        "none.png": png(0, 0),
        "none.jpg": made_files.jpeg_that_says(0, 0),
    }


def video_of(frame: bytes, edge: int) -> bytes:
    """Return a QuickTime file of eight PNG frames, whatever they hold, that promises an edge."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mov") as target:
        stream = target.add_stream("png", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "gray"
        for number in range(8):
            packet = av.Packet(frame)
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base = Fraction(1, 5)
            target.mux(packet)
    data = buffer.getvalue()
    return patched(data, data.rindex(b"png ") + 28, struct.pack(">HH", edge, edge))


MAKERS = {"png": pngs, "exif": exifs, "tiff": tiff_bombs, "header": lying_headers}


@pytest.fixture(scope="module")
def good_peak(tmp_path_factory: pytest.TempPathFactory) -> float:
    """What good files alone cost, in MB."""
    folder = tmp_path_factory.mktemp("good")
    raw, store = make_images(folder / "raw", count=3), str(folder / "store")
    words = ("--modality", "image", *FIXED, "--store", store)
    code, said, peak = run_with_peak("ingest", str(raw), *words)
    assert code == 0, said
    return peak


@pytest.mark.parametrize("kind", MAKERS)
def test_pictures_that_lie_about_their_size_cost_no_memory(
    kind: str, tmp_path: Path, good_peak: float
) -> None:
    raw = make_images(tmp_path / "raw", count=3)
    bad = MAKERS[kind]()
    for name, data in bad.items():
        (raw / name).write_bytes(data)
    words = ("--modality", "image", *FIXED, "--store", str(tmp_path / "store"))
    code, said, peak = run_with_peak("ingest", str(raw), *words, "--max-reject", "0.99")
    assert code == 0 and "Traceback" not in said, said
    assert peak - good_peak < MOST_MB, f"{peak - good_peak:.0f} MB more than good files"


EXPECTED = {
    "huge.jp2": "too_large",
    "huge.bmp": "too_large",
    "huge.png": "too_large",
    "huge.jpg": "too_large",
    "huge.webp": "too_large",
    "huge.gif": "too_large",
    "huge.tif": "too_large",
    "empty_but_large.jpg": "truncated",
    "none.png": "decode_error",
    "none.jpg": "decode_error",
    "loop.tif": "decode_error",
    "tiles_16384.tif": "too_large",
    "tiles_65520.tif": "too_large",
}


def test_lying_pictures_are_refused_by_class_and_odd_exif_is_no_harm(tmp_path: Path) -> None:
    raw = make_images(tmp_path / "raw", count=3)
    made = lying_headers() | tiff_bombs() | exifs()
    for name, data in made.items():
        (raw / name).write_bytes(data)
    outcome = ingest_all(tmp_path / "store", "image", str(raw))
    assert outcome.report["inputs"] == len(made) + 3
    reasons = outcome.reasons()
    assert reasons | EXPECTED == reasons
    taken = {uri.rpartition("/")[2] for uri in outcome.samples}
    assert {"loop.jpg", "deep.jpg", "wide.jpg", "many.jpg"} <= taken


@pytest.mark.parametrize("modality", ["microscopy", "satellite"])
def test_rasters_that_lie_about_their_size_cost_no_memory(
    modality: str, tmp_path: Path, good_peak: float
) -> None:
    corpus = made_files.microscopy_corpus() if modality == "microscopy" else {}
    corpus = corpus or made_files.satellite_corpus()
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, data in tiff_bombs().items():
        if "16384" not in name:  # a tile of 256 MiB is allowed
            (raw / name).write_bytes(data)
    for name, (data, _) in corpus.items():
        (raw / f"made_{name}").write_bytes(data)
    words = ("--modality", modality, *FIXED, "--store", str(tmp_path / "store"))
    code, said, peak = run_with_peak("ingest", str(raw), *words, "--max-reject", "0.99")
    assert code == 0 and "Traceback" not in said, said
    assert peak - good_peak < 2 * MOST_MB, f"{peak - good_peak:.0f} MB more than good pictures"


def test_a_video_whose_frames_are_huge_costs_no_memory(tmp_path: Path, good_peak: float) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "good.mov").write_bytes(video_of(png(64, 64, data=zlib.compress(bytes(64 * 65))), 64))
    huge = png(20_000, 20_000, data=zeros(400))
    for edge in (64, 20_000):  # the container may tell the truth, or not
        (raw / f"huge_{edge}.mov").write_bytes(video_of(huge, edge))
    words = ("--modality", "video", "--frames", "4", *FIXED, "--store", str(tmp_path / "store"))
    code, said, peak = run_with_peak("ingest", str(raw), *words, "--max-reject", "0.99")
    assert code == 0 and "Traceback" not in said, said
    assert peak - good_peak < MOST_MB, f"{peak - good_peak:.0f} MB more than good pictures"


def test_an_npz_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1048576, 1048576), }"
    header = header.ljust(117) + b"\n"
    with zipfile.ZipFile(raw / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        magic = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
        archive.writestr("array.npy", magic + header + bytes(2**24))
    (raw / "good.tif").write_bytes(made_files.satellite_corpus()["no_crs.tif"][0])
    outcome = ingest_all(tmp_path / "store", "satellite", str(raw))
    assert outcome.reasons() == {"bomb.npz": "too_large"}


def clips_of(data: bytes) -> None:
    """Decode a video as ingest does."""
    index = videos.probe_video(data)
    for _ in videos.decode_clips(data, index, videos.plan_clips(index, frames=4)):
        pass


VALUES = np.random.default_rng(5).integers(0, 4096, (3, 32, 32)).astype(np.uint16)
DAMAGED: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "tiff": (rasters.decode_tiff, tiff(VALUES)),
    "lzw": (rasters.decode_tiff, tiff(VALUES, tile=(16, 16), compression="lzw", predictor=True)),
    "bigtiff": (rasters.decode_tiff, tiff(VALUES, bigtiff=True, compression="zstd")),
    "geotiff": (rasters.decode_geotiff, geotiff(VALUES, nodata=0, compress="deflate")),
    "mp4": (clips_of, numbered_video(8)),
    "mkv": (clips_of, numbered_video(8, format="matroska")),
    "avi": (clips_of, numbered_video(8, format="avi")),
}


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """Return bytes with some of them changed, most often near the beginning, where structure is."""
    data = bytearray(whole)
    for _ in range(draw.choice((1, 2, 6))):
        place = draw.randrange(min(len(data), draw.choice((600, 10**6))))
        data[place] = draw.choice((0, 255, data[place] ^ 1, draw.randrange(256)))
    return bytes(data)


@pytest.mark.parametrize("kind", DAMAGED)
def test_any_damage_is_a_decode_error_or_decodes(kind: str) -> None:
    """Of whatever kind a library's own errors are: one of them would end a whole ingest."""
    decode, whole = DAMAGED[kind]
    assert_only_decode_errors(decode, whole, random.Random(kind), rounds=100)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGED)
def test_much_damage_is_a_decode_error_or_decodes(kind: str) -> None:
    decode, whole = DAMAGED[kind]
    assert_only_decode_errors(decode, whole, random.Random(f"much {kind}"), rounds=5000)


def assert_only_decode_errors(
    decode: Callable[[bytes], object], whole: bytes, draw: random.Random, rounds: int
) -> None:
    decode(whole)
    for _ in range(rounds):
        try:
            decode(damaged(whole, draw))
        except DecodeError as error:
            assert error.detail
            address = re.search("0x[0-9a-f]{8}", error.detail)
            assert not address, "an address is another one each time: rejects would differ"
