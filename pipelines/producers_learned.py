"""Columns that look through something learned: codes (centroids of patches), features (a frozen
encoder). What was learned is the column's artefact; its hash is among the parameters."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from pipelines.column_types import (
    CENTER,
    Array,
    Parameters,
    Producer,
    Stored,
    channels_first,
    check_frozen,
    frozen_pixels,
)
from pipelines.producers_pixels import ALL, OWN_VIEWS
from preprocessing.kmeans import nearest, patch_vectors
from preprocessing.targets import token_frames
from preprocessing.vit import FrozenEncoder, encode_tokens, frozen_encoder

FEATURE_BATCH = 16
"Views that the encoder sees at once: fixed, so that no worker count changes a sum."
NORMS = ("auto", "file", "imagenet", "half", "unit", "self")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_EPS = 1e-5


def _codes(
    samples: Iterable[Stored], parameters: Parameters, artefact: bytes | None
) -> Iterator[NDArray[np.uint16]]:
    """Yield (views, N) uint16: the nearest centroid of each patch under each frozen view."""
    centroids = read_centroids(_given(artefact, "codes"))
    for stored in samples:
        views = [
            nearest(patch_vectors(frames, parameters["patch"]), centroids)
            for frames in coded_frames(stored, parameters)
        ]
        yield np.stack(views).astype(np.uint16)


def coded_frames(stored: Stored, parameters: Parameters) -> Iterator[Array]:
    """Yield (t, H, W, C): the frames of each frozen view that give tokens."""
    first = channels_first(stored.ext)
    for pixels in frozen_pixels(stored, parameters):
        yield token_frames(pixels, parameters["tubelet"], channels_first=first)


def read_centroids(artefact: bytes) -> NDArray[np.float32]:
    """Return the centroids (K, D) that a column's artefact holds."""
    centroids: NDArray[np.float32] = np.load(io.BytesIO(artefact), allow_pickle=False)
    return centroids


def _given(artefact: bytes | None, column: str) -> bytes:
    if artefact is None:
        raise ValueError(f"{column}: its artefact is missing. Derive the column with its weights.")
    return artefact


def _check_codes(parameters: Parameters) -> Parameters:
    check_frozen(parameters)
    if not 2 <= parameters["codes"] <= 65536:
        raise ValueError(f"codes is {parameters['codes']}; it must be 2 to 65536. 8192 is usual.")
    for name in ("fit_samples", "fit_patches", "rounds"):
        if parameters[name] < 1:
            raise ValueError(f"{name} is {parameters[name]}; it must be 1 or more.")
    return parameters


def _features(
    samples: Iterable[Stored], parameters: Parameters, artefact: bytes | None
) -> Iterator[NDArray[np.float16]]:
    """Yield (views, N, D) float16: the encoder's patch tokens under each frozen view."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder, norm = _loaded(_given(artefact, "features"), parameters["heads"], str(device))
    waiting: list[torch.Tensor] = []
    done: list[NDArray[np.float16]] = []
    views = parameters["views"]
    for stored in samples:
        waiting += [_pixels(p, stored.ext, encoder) for p in frozen_pixels(stored, parameters)]
        while len(waiting) >= FEATURE_BATCH:
            done += _encoded(encoder, waiting[:FEATURE_BATCH], (parameters["norm"], norm), device)
            waiting = waiting[FEATURE_BATCH:]
        while len(done) >= views:
            yield np.stack(done[:views])
            done = done[views:]
    if waiting:
        done += _encoded(encoder, waiting, (parameters["norm"], norm), device)
    for begin in range(0, len(done), views):
        yield np.stack(done[begin : begin + views])


@lru_cache(maxsize=1)
def _loaded(
    artefact: bytes, heads: int, device: str
) -> tuple[FrozenEncoder, dict[str, torch.Tensor]]:
    """Return the encoder, and how its inputs are normalised if the file says so."""
    tensors = safetensors.torch.load(artefact)
    norm = {name: tensors.pop(name) for name in list(tensors) if name.startswith("input.")}
    heads = heads or int(norm.get("input.heads", torch.tensor(0)))
    encoder = frozen_encoder(tensors, heads)
    for name, value in encoder.weights.items():
        encoder.weights[name] = value.to(device)
    return encoder, norm


def _pixels(pixels: Array, ext: str, encoder: FrozenEncoder) -> torch.Tensor:
    """Return a viewed sample as the encoder takes it, not yet normalised: (C, [T,] H, W)."""
    array = pixels
    if not channels_first(ext):
        array = pixels.transpose(3, 0, 1, 2) if pixels.ndim == 4 else pixels.transpose(2, 0, 1)
    if array.shape[0] != encoder.channels or (array.ndim == 4) != bool(encoder.tubelet):
        raise ValueError(
            f"features: the encoder takes {'clips' if encoder.tubelet else 'images'} of "
            f"{encoder.channels} channels, the sample is {array.shape}. Use another encoder."
        )
    return torch.from_numpy(np.ascontiguousarray(array))


def _encoded(
    encoder: FrozenEncoder,
    views: list[torch.Tensor],
    norm: tuple[str, dict[str, torch.Tensor]],
    device: torch.device,
) -> list[NDArray[np.float16]]:
    """Return the tokens (N, D) of each view, computed on one thread of the processor or on the
    device."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pixels = normalised(torch.stack(views), *norm).to(device)
        return list(encode_tokens(encoder, pixels).cpu().half().numpy())
    finally:
        torch.set_num_threads(threads)


def normalised(
    pixels: torch.Tensor, kind: str, given: dict[str, torch.Tensor] | None = None
) -> torch.Tensor:
    """Return (B, C, [T,] H, W) as an encoder wants it, float32.

    Args:
        kind: one of `NORMS`; auto is the file's own, or ImageNet's where it has none.
        given: what the weights file says: `input.mean` and `input.std` in raw units, or
            `input.self`.
    """
    given = given or {}
    if kind in ("auto", "file") and given:
        kind = "self" if "input.self" in given else "file"
    unit = pixels.float() / (255 if pixels.dtype == torch.uint8 else 1)
    shape = (1, -1) + (1,) * (pixels.ndim - 2)
    if kind == "self":
        axes = tuple(range(2, pixels.ndim))
        variance, mean = torch.var_mean(unit, axes, correction=0, keepdim=True)
        return (unit - mean) / (variance + _EPS).sqrt()
    if kind == "file":
        if "input.mean" not in given:
            raise ValueError("features.norm is file, but the weights tell no input.mean.")
        scaled = (pixels.float() - given["input.mean"].view(shape)) / given["input.std"].view(shape)
        return scaled.clamp(0, 1) if "input.clip" in given else scaled
    if kind == "unit":
        return unit
    if kind == "half":
        return unit * 2 - 1
    if pixels.shape[1] != 3:
        raise ValueError(
            f"features.norm is {kind}, the samples have {pixels.shape[1]} channels; ImageNet's "
            "mean fits RGB only. Use norm=self, unit or half."
        )
    mean, std = (torch.tensor(values).view(shape) for values in _IMAGENET)
    return (unit - mean) / std


def _check_features(parameters: Parameters) -> Parameters:
    check_frozen(parameters)
    if parameters["norm"] not in NORMS:
        raise ValueError(f"norm is {parameters['norm']!r}; it must be one of {', '.join(NORMS)}.")
    return parameters


_FROZEN: dict[str, Any] = {"views": 1, "view": CENTER, "stride": 1}
LEARNED_PRODUCERS: dict[str, Producer] = {
    "codes": Producer(
        version=1,
        defaults={
            "codes": 512,
            "patch": 16,
            "tubelet": 2,
            **_FROZEN,
            "fit_samples": 512,
            "fit_patches": 64,
            "rounds": 20,
            "seed": 0,
            "fit": "",
        },
        make=_codes,
        bound="exact",
        modalities=ALL,
        views=OWN_VIEWS,
        check=_check_codes,
        artefact="fit",
        fitted=True,
    ),
    "features": Producer(
        version=1,
        defaults={**_FROZEN, "norm": "auto", "heads": 0, "weights": ""},
        make=_features,
        bound="each value within 1/2048 of itself (float16) of the computed one, which is float32 "
        "on the worker's own device",
        modalities=ALL,
        views=OWN_VIEWS,
        check=_check_features,
        artefact="weights",
    ),
}
