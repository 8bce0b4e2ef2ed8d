"""Compares stored samples with every field that `expected.json` states; an unknown field fails."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from preprocessing.images import decode_image
from tests.integration.outcomes import Stored

Expected = dict[str, Any]
AXES = {"image": "HWC", "video": "THWC", "microscopy": "CHW", "satellite": "CHW"}
ENTRY_FIELDS = {"modality", "action", "reason_class", "decoded", "why", "unit"}
ENTRY_FIELDS |= {"header_shape", "max_extra_memory_mb"}


@dataclass(frozen=True, slots=True)
class Seen:
    """An accepted file: its raw bytes, and what was stored of it."""

    raw: bytes
    samples: list[Stored]
    array: NDArray[np.generic]
    "what a batch would be made of: the picture, the raster, or all frames in order"
    stored: NDArray[np.generic]
    "before 16-bit pictures become 8-bit and gaps in rasters are filled"

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Values that are finite and not nodata."""
        finite = np.isfinite(self.stored)
        nodata = self.samples[0].metadata.get("nodata")
        return finite if nodata is None else finite & (self.stored != nodata)


def check_accepted(modality: str, decoded: Expected, raw: bytes, samples: list[Stored]) -> None:
    """Hold the samples of one raw file against its `decoded` fields."""
    if modality == "video":
        array = stored = _all_frames(samples)
    else:
        assert len(samples) == 1
        array = stored = samples[0].array()
        if modality == "image":
            stored = decode_image(samples[0].payload)
        else:
            stored = tifffile.imread(io.BytesIO(samples[0].payload)).reshape(array.shape)
    seen = Seen(raw, samples, array, stored)
    assert len(AXES[modality]) == array.ndim
    assert np.isfinite(array).all(), "no NaN may reach a batch"
    for name, value in decoded.items():
        assert name in CHECKS, f"expected.json has the new field {name!r}: write its check"
        CHECKS[name](seen, value, decoded)


def _all_frames(samples: list[Stored]) -> NDArray[np.generic]:
    """Return the frames of clips of one frame, ordered by the ids in their metadata."""
    frames = {int(sample.metadata["frames"][0]): sample.array()[0] for sample in samples}
    assert sorted(frames) == list(range(len(samples)))
    return np.stack([frames[i] for i in sorted(frames)])


def _even(shape: list[int]) -> list[int]:
    """A stored clip is 4:2:0, so that an odd edge loses its last row or column."""
    count, height, width, parts = shape
    return [count, height // 2 * 2, width // 2 * 2, parts]


def _shape(seen: Seen, value: list[int], decoded: Expected) -> None:
    layout = decoded["layout"]
    if layout == "THWC":
        assert list(seen.array.shape) == _even(value)
        assert [len(seen.samples), *seen.array.shape[1:]] == _even(value)
    elif layout == "HW":
        assert list(seen.stored.shape) == value and list(seen.array.shape) == [*value, 3]
    else:
        assert list(seen.array.shape) == decoded.get("as_rgb_shape", value)


def _layout(seen: Seen, value: str, decoded: Expected) -> None:
    assert value in ("HW", "HWC", "CHW", "THWC")
    assert seen.stored.ndim == len(value)


def _dtype(seen: Seen, value: str, decoded: Expected) -> None:
    assert str(seen.stored.dtype) == value


def _mean_rgb(seen: Seen, value: list[float], decoded: Expected) -> None:
    found = seen.array.mean(tuple(range(seen.array.ndim - 1)))
    assert found == pytest.approx(value, abs=decoded["mean_tolerance"])


def _half(rows: Callable[[int], slice], frame: int | None) -> Any:
    def check(seen: Seen, value: list[float], decoded: Expected) -> None:
        picture = seen.array if frame is None else seen.array[frame]
        found = picture[rows(len(picture) // 2)].mean((0, 1))
        assert found == pytest.approx(value, abs=decoded["mean_tolerance"])

    return check


def _planes(seen: Seen) -> list[NDArray[np.float64]]:
    return [p[v].astype(np.float64) for p, v in zip(seen.stored, seen.valid, strict=True)]


def _channel_mean(seen: Seen, value: list[float], decoded: Expected) -> None:
    assert [plane.mean() for plane in _planes(seen)] == pytest.approx(value, abs=2e-3)


def _channel_std(seen: Seen, value: list[float], decoded: Expected) -> None:
    assert [plane.std() for plane in _planes(seen)] == pytest.approx(value, abs=2e-3)


def _valid_share(seen: Seen, value: float, decoded: Expected) -> None:
    assert seen.valid.mean() == pytest.approx(value, abs=1e-6)
    share = seen.samples[0].metadata["valid_share"]  # of pixels that all channels have
    assert share == pytest.approx(seen.valid.all(0).mean(), abs=1e-6)


def _scaled_mean(seen: Seen, value: float, decoded: Expected) -> None:
    assert seen.array.dtype == np.uint8
    assert seen.array.mean() == pytest.approx(value, abs=decoded["mean_tolerance"])


def _timestamps(seen: Seen, value: list[float], decoded: Expected) -> None:
    seconds = sorted(sample.metadata["seconds"][0] for sample in seen.samples)
    assert seconds == pytest.approx(value, abs=6e-4)
    levels = seen.array.mean((1, 2, 3))
    assert levels == pytest.approx(15 * np.arange(len(value)), abs=decoded["level_tolerance"])


def _decodable(seen: Seen, value: int, decoded: Expected) -> None:
    assert abs(len(seen.samples) - value) <= decoded["frames_tolerance"]
    assert len(seen.samples) != decoded["frames_in_index"]


def _raw_picture(seen: Seen) -> Image.Image:
    return Image.open(io.BytesIO(seen.raw))


def _raw_video(seen: Seen) -> tuple[int, int, int]:
    """Return height, width and rotation that PyAV reads from the raw file's first frame."""
    with av.open(io.BytesIO(seen.raw)) as source:
        frame = next(source.decode(video=0))
        return frame.height, frame.width, frame.rotation


def _equal(look: Callable[[Seen], Any]) -> Any:
    """Return a check that something seen equals the stated value."""

    def check(seen: Seen, value: Any, decoded: Expected) -> None:
        assert look(seen) == value

    return check


def _tolerated(seen: Seen, value: Any, decoded: Expected) -> None:
    """The field is a tolerance that another check uses, or says how the reference failed."""


CHECKS: dict[str, Callable[[Seen, Any, Expected], None]] = {
    "layout": _layout,
    "shape": _shape,
    "dtype": _dtype,
    "mean_rgb": _mean_rgb,
    "mean": lambda s, v, d: _close(s.stored.mean(), v, d["mean_tolerance"]),
    "mean_if_scaled_to_8_bit": _scaled_mean,
    "min": _equal(lambda s: s.stored.min()),
    "max": _equal(lambda s: s.stored.max()),
    "as_rgb_shape": _equal(lambda s: list(s.array.shape)),
    "n_frames": _equal(lambda s: getattr(_raw_picture(s), "n_frames", 1)),
    "stored_channels": _equal(lambda s: len(_raw_picture(s).getbands())),
    "stored_shape": lambda s, v, d: _same(list(np.asarray(_raw_picture(s)).shape), v),
    "top_half_mean_rgb_upright": _half(lambda middle: slice(middle), None),
    "first_frame_top_half_mean_rgb_upright": _half(lambda middle: slice(middle), 0),
    "first_frame_bottom_half_mean_rgb_upright": _half(lambda middle: slice(middle, None), 0),
    "channel_mean": _channel_mean,
    "channel_mean_finite": _channel_mean,
    "band_mean": _channel_mean,
    "band_mean_valid": _channel_mean,
    "channel_std": _channel_std,
    "channel_std_finite": _channel_std,
    "finite_fraction": lambda s, v, d: _close(np.isfinite(s.stored).mean(), v, 1e-6),
    "valid_fraction": _valid_share,
    "nodata": _equal(lambda s: s.samples[0].metadata["nodata"]),
    "crs": _equal(lambda s: s.samples[0].metadata["crs"]),
    "timestamps_s": _timestamps,
    "height_width": _equal(lambda s: list(s.array.shape[1:3])),
    "coded_shape": lambda s, v, d: _same((len(s.samples), *_raw_video(s)[:2], 3), tuple(v)),
    "rotation_side_data": lambda s, v, d: _same(abs(_raw_video(s)[2]) % 360, v),
    "frames_decodable_reference": _decodable,
    "frames_in_index": _tolerated,
    "frames_tolerance": _tolerated,
    "mean_tolerance": _tolerated,
    "level_tolerance": _tolerated,
    "reference_decoder_error": _tolerated,
}


def _close(found: float, value: float, tolerance: float) -> None:
    assert found == pytest.approx(value, abs=tolerance)


def _same(found: Any, value: Any) -> None:
    assert found == value
