"""Every entry of the shared collection of broken files does what it says."""

from __future__ import annotations

import json
import resource
from typing import Any

import numpy as np
import pytest

from preprocessing.errors import REASON_CLASSES, DecodeError
from preprocessing.images import decode_image, encode_image
from preprocessing.payloads import decode_payload
from preprocessing.rasters import RasterImage, decode_geotiff, decode_tiff, merge_channels
from preprocessing.videos import VideoIndex, decode_frames, probe_video
from tests.unit.preprocessing.raw_media import SHARED, needs_shared

BROKEN = SHARED / "broken"
BOOK = json.loads((BROKEN / "expected.json").read_text()) if BROKEN.is_dir() else {}
ENTRIES = {name: entry for name, entry in BOOK.get("files", {}).items() if not name.endswith("/")}
BY_PIPELINE = {"fov_mismatched_shapes/", "fov_missing_channel/"}
"fields of several files: their shapes are checked below, their channels where files are grouped"

pytestmark = needs_shared


def decode(modality: str, data: bytes) -> Any:
    """Decode as ingest does."""
    if modality == "image":
        return decode_image(data)
    if modality == "video":
        index = probe_video(data)
        return index, decode_frames(data, index, range(index.frames))
    return decode_tiff(data) if modality == "microscopy" else decode_geotiff(data)


def test_every_entry_is_covered() -> None:
    assert ENTRIES
    assert set(BOOK["files"]) - set(ENTRIES) == BY_PIPELINE
    assert set(BOOK["reason_classes"]) <= set(REASON_CLASSES)


@pytest.mark.parametrize("name", ENTRIES)
def test_entry(name: str) -> None:
    entry = ENTRIES[name]
    data = (BROKEN / name).read_bytes()
    try:
        decoded = decode(entry["modality"], data)
    except DecodeError as error:
        assert "reject" in entry["action"], error
        assert error.reason_class == entry["reason_class"], error
        return
    assert "accept" in entry["action"]
    check = {"image": check_image, "video": check_video}.get(entry["modality"], check_raster)
    check(entry["decoded"], decoded)
    if entry["modality"] == "image":
        check_stored(data)


def check_image(expected: dict[str, Any], pixels: np.ndarray) -> None:
    shape = (
        expected.get("as_rgb_shape", expected["shape"]) if pixels.ndim == 3 else expected["shape"]
    )
    assert list(pixels.shape) == shape
    assert str(pixels.dtype) == expected["dtype"]
    tolerance = expected.get("mean_tolerance", 0)
    if "mean_rgb" in expected:
        assert pixels.mean((0, 1)) == pytest.approx(expected["mean_rgb"], abs=tolerance)
    if "mean" in expected:
        assert pixels.mean() == pytest.approx(expected["mean"], abs=tolerance)
    if "top_half_mean_rgb_upright" in expected:
        top = pixels[: len(pixels) // 2].mean((0, 1))
        assert top == pytest.approx(expected["top_half_mean_rgb_upright"], abs=tolerance)


def check_stored(data: bytes) -> None:
    """What is stored decodes to 3 channels of 8 bits, with and without a resize."""
    for short_side in (None, 32):
        encoded, pixels = encode_image(data, short_side=short_side)
        stored = decode_payload(encoded.ext, encoded.payload)
        assert stored.dtype == np.uint8 and stored.shape == encoded.shape == (*stored.shape[:2], 3)
        if encoded.payload is data or encoded.ext == "png":
            assert np.array_equal(stored, pixels)
        else:  # the pixels are those before JPEG's loss
            assert stored.shape == pixels.shape
            assert np.abs(stored.astype(int) - pixels).mean() < 6


def check_video(expected: dict[str, Any], decoded: tuple[VideoIndex, np.ndarray]) -> None:
    index, frames = decoded
    assert list(frames.shape) == expected["shape"]
    assert (index.frames, index.height, index.width) == frames.shape[:3]
    if "timestamps_s" in expected:
        seconds = [index.seconds(i) for i in range(index.frames)]
        assert seconds == pytest.approx(expected["timestamps_s"], abs=6e-4)
        assert frames.mean((1, 2, 3)) == pytest.approx(np.arange(16) * 15, abs=4)
        assert index.frame_at(1.0) == 7 and index.variable_rate
    if "first_frame_top_half_mean_rgb_upright" in expected:
        middle = frames.shape[1] // 2
        for half, rows in (("top", slice(middle)), ("bottom", slice(middle, None))):
            mean = frames[0, rows].mean((0, 1))
            assert mean == pytest.approx(
                expected[f"first_frame_{half}_half_mean_rgb_upright"], abs=3
            )


def check_raster(expected: dict[str, Any], image: RasterImage) -> None:
    assert list(image.array.shape) == expected["shape"]
    assert str(image.array.dtype) == expected["dtype"]
    values = [plane[known] for plane, known in zip(image.array, image.valid_CHW, strict=True)]
    for name in ("channel_mean", "band_mean", "channel_mean_finite", "band_mean_valid"):
        if name in expected:
            means = [float(v.mean(dtype=np.float64)) for v in values]
            assert means == pytest.approx(expected[name], abs=2e-3)
    for name in ("channel_std", "channel_std_finite"):
        if name in expected:
            spreads = [float(v.std(dtype=np.float64)) for v in values]
            assert spreads == pytest.approx(expected[name], abs=2e-3)
    for name in ("finite_fraction", "valid_fraction"):
        if name in expected:
            assert image.valid_CHW.mean() == pytest.approx(expected[name], abs=1e-6)
    if "crs" in expected:
        assert image.crs == image.metadata["crs"] == expected["crs"]
    if "nodata" in expected:
        assert image.metadata["nodata"] == expected["nodata"]


def test_a_field_of_mismatched_shapes_is_refused() -> None:
    files = sorted((BROKEN / "fov_mismatched_shapes").iterdir())
    with pytest.raises(DecodeError, match="96x128") as caught:
        merge_channels([decode_tiff(file.read_bytes()) for file in files], ["DAPI", "GFP", "RFP"])
    assert caught.value.reason_class == "shape_mismatch"


def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    data = (BROKEN / "bomb_30000x30000.png").read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DecodeError, match="30000x30000"):
        decode_image(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024
