"""Decoding on a device: the CPU's pixels on the CPU, and near them on a GPU."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from preprocessing.decode_torch import TOLERANCE, DeviceError, check_device, decode_frames
from preprocessing.payloads import decode_payload
from preprocessing.video_codec import encode_clip
from tests.unit.preprocessing.devices import DEVICES


def picture(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height)
    small = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def stored(ext: str) -> bytes:
    if ext == "mp4":
        return encode_clip(np.stack([np.roll(picture(96, 128), i, 1) for i in range(5)]), fps=8)
    return cv2.imencode(".jpg", picture(75, 100))[1].tobytes()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ext", ["jpg", "mp4"])
def test_pixels_are_those_of_the_cpu(device: str, ext: str) -> None:
    """Within TOLERANCE levels in the mean on a GPU, equal on the CPU."""
    payload = stored(ext)
    wanted = decode_payload(ext, payload)
    wanted = wanted if ext == "mp4" else wanted[None]
    for frames in decode_frames(ext, [payload, payload], torch.device(device)):
        assert frames is not None
        got = frames.cpu().permute(0, 2, 3, 1).numpy()
        assert got.dtype == np.uint8
        assert got.shape == wanted.shape
        away = np.abs(got.astype(int) - wanted)
        assert away.mean() <= (TOLERANCE if device == "cuda" else 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ext", ["jpg", "mp4"])
def test_what_cannot_be_decoded_leaves_the_others_alone(device: str, ext: str) -> None:
    payload = stored(ext)
    found = decode_frames(ext, [payload, bytes(100), payload], torch.device(device))
    assert found[0] is not None
    assert found[2] is not None
    assert torch.equal(found[0], found[2])
    assert found[1] is None, "the CPU's decoder has the last word"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ext", ["jpg", "mp4"])
def test_a_device_is_tried(device: str, ext: str) -> None:
    check_device(ext, torch.device(device))


def test_a_device_that_cannot_is_told() -> None:
    with pytest.raises(DeviceError, match="tif samples are decoded by the CPU only"):
        check_device("tif", torch.device("cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="there is no CUDA device, or torch is built without"):
            check_device("jpg", torch.device("cuda"))


@pytest.mark.parametrize("ext", ["jpg", "mp4"])
def test_a_decoder_that_is_missing_or_wrong_is_told(
    ext: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where torch says that there is a GPU, and its decoders are missing or make something else."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(DeviceError, match=f"{ext} samples: ModuleNotFoundError: No module named"):
        check_device(ext, torch.device("cuda"))
    right = decode_frames(ext, [stored(ext)], torch.device("cpu"))[0]
    for wrong, told in ((None, "gave nothing"), (right, "gave the shape")):
        monkeypatch.setattr("preprocessing.decode_torch._clip", lambda *_, w=wrong: w)
        monkeypatch.setattr("preprocessing.decode_torch._jpegs", lambda *_, w=wrong: [w])
        with pytest.raises(DeviceError, match=told):
            check_device(ext, torch.device("cuda"))
