"""Stored pictures and clips decoded on a device: JPEGs by nvJPEG, clips by NVDEC.

On the CPU the same functions give the pixels of `decode_payload`. The libraries of a GPU are looked
for when they are first used, and tried on something made here: they can be there and not work.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from preprocessing.errors import DecodeError
from preprocessing.jpeg import plain_frame
from preprocessing.payloads import decode_payload

DEVICE_EXTENSIONS = ("jpg", "mp4")
"What a GPU decodes; all else is decoded by the CPU."
TOLERANCE = 2.0
"Mean difference over a picture, in grey levels, of what both decoders make of it."
_EDGE = 256
"of what decoders are tried on, px"


class DeviceError(RuntimeError):
    """Pictures cannot be decoded on the device that was asked for."""


def decode_frames(ext: str, payloads: Sequence[bytes], device: torch.device) -> list[Tensor | None]:
    """Return the frames of stored samples of one kind: (T, C, H, W) uint8 RGB on the device.

    None where the device cannot decode one, as of a grey or a damaged picture: the CPU's decoder
    has the last word.

    Args:
        ext: one of `DEVICE_EXTENSIONS`.
    """
    if device.type == "cpu":
        return [_by_cpu(ext, payload) for payload in payloads]
    if ext == "mp4":
        return [_clip(payload, device) for payload in payloads]
    plain = [i for i, payload in enumerate(payloads) if plain_frame(payload)]
    found: list[Tensor | None] = [None] * len(payloads)
    for i, frames in zip(plain, _jpegs([payloads[i] for i in plain], device), strict=True):
        found[i] = frames
    return found


def check_device(ext: str, device: torch.device) -> None:
    """Try the device's decoder on a picture, or a clip, made here.

    Raises:
        DeviceError: there is no such device or decoder, or it gives other pixels.
    """
    if ext not in DEVICE_EXTENSIONS:
        raise DeviceError(f"{ext} samples are decoded by the CPU only")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("there is no CUDA device, or torch is built without CUDA")
    sample = _made(ext)
    try:
        frames = decode_frames(ext, [sample], device)[0]
    except Exception as error:  # whatever a library raises that is missing, broken or has no driver
        raise DeviceError(f"{ext} samples: {type(error).__name__}: {_first_line(error)}") from error
    if frames is None:
        raise DeviceError(f"{ext} samples: the decoder of {device} gave nothing")
    wanted = _by_cpu(ext, sample)
    assert wanted is not None, "what was made here is whole"
    if frames.shape != wanted.shape:
        raise DeviceError(f"{ext} samples: {device} gave the shape {tuple(frames.shape)}")
    away = float((frames.cpu().float() - wanted.float()).abs().mean())
    if away > TOLERANCE:
        raise DeviceError(f"{ext} samples: {device} gave pixels {away:.1f} levels off")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")


def _by_cpu(ext: str, payload: bytes) -> Tensor | None:
    try:
        pixels = decode_payload(ext, payload)
    except DecodeError:
        return None
    frames = pixels if pixels.ndim == 4 else pixels[None]
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def _jpegs(payloads: Sequence[bytes], device: torch.device) -> list[Tensor | None]:
    codec, decoder, parameters = _nvimgcodec(device.index or 0)
    if not payloads:
        return []
    images = decoder.decode([codec.CodeStream(payload) for payload in payloads], params=parameters)
    return [
        None if image is None else from_dlpack(image.cuda()).permute(2, 0, 1)[None]
        for image in images
    ]


@cache
def _nvimgcodec(index: int) -> tuple[Any, Any, Any]:
    """Return NVIDIA's module, a decoder of this process and what it is asked for."""
    codec = importlib.import_module("nvidia.nvimgcodec")
    # libjpeg-turbo interpolates colours, and so must nvJPEG.
    decoder = codec.Decoder(device_id=index, options=":fancy_upsampling=1")
    asked = codec.DecodeParams(apply_exif_orientation=False, color_spec=codec.ColorSpec.SRGB)
    return codec, decoder, asked


def _clip(payload: bytes, device: torch.device) -> Tensor | None:
    decoders = importlib.import_module("torchcodec.decoders")
    try:
        decoder = decoders.VideoDecoder(payload, device=str(device), seek_mode="exact")
        frames: Tensor = decoder.get_frames_in_range(0, len(decoder)).data
    except (RuntimeError, ValueError):
        return None
    return frames


def _made(ext: str) -> bytes:
    """Return a smooth picture, or 4 frames of it moving, as they are stored."""
    ramp = np.linspace(20, 230, _EDGE)
    red, green = np.broadcast_to(ramp, (_EDGE, _EDGE)), np.broadcast_to(ramp[:, None], (_EDGE,) * 2)
    picture: NDArray[np.uint8] = np.stack([red, green, (red + green) / 2], -1).astype(np.uint8)
    if ext == "mp4":
        from preprocessing.video_codec import encode_clip  # PyAV: only clips need it

        return encode_clip(np.stack([np.roll(picture, 2 * i, 1) for i in range(4)]), fps=8)
    done, data = cv2.imencode(".jpg", picture)
    assert done, "OpenCV writes JPEGs"
    return data.tobytes()
