"""Samples through a frozen encoder, batch by batch: what the column `features` holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.column_types import Array, Parameters, Stored, channels_first, frozen_pixels
from preprocessing.vit import FrozenEncoder, encode_tokens, frozen_encoder
from preprocessing.weight_files import read_weights

FEATURE_BATCH = 16
"Views that the encoder sees at once: fixed, so that no worker count changes a sum."
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_EPS = 1e-5


def encode_samples(
    samples: Iterable[Stored], parameters: Parameters, artefact: bytes
) -> Iterator[NDArray[np.float16]]:
    """Yield (views, N, D) float16: the encoder's patch tokens under each frozen view."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder, norm = _loaded(artefact, parameters["heads"], str(device))
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


def check_encoder(artefact: bytes, parameters: Parameters) -> None:
    """Refuse weights that hold no encoder, or one whose patches do not fit the views.

    Raises:
        ValueError: with what is wrong.
    """
    encoder, _ = _loaded(artefact, parameters["heads"], "cpu")
    size = parameters["view"]["size"]
    if size % encoder.patch:
        raise ValueError(
            f"view.size is {size}, the encoder's patch is {encoder.patch}; the view must hold "
            f"whole patches. Use view.size={max(size // encoder.patch, 1) * encoder.patch}."
        )


@lru_cache(maxsize=1)
def _loaded(
    artefact: bytes, heads: int, device: str
) -> tuple[FrozenEncoder, dict[str, torch.Tensor]]:
    """Return the encoder, and how its inputs are normalised if the file says so."""
    try:
        tensors = read_weights(artefact)
    except ValueError as error:
        raise ValueError(f"features: the weights file {error}") from error
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
    if kind == "auto":
        own = [name for name in ("self", "mean") if f"input.{name}" in given]
        kind = {"self": "self", "mean": "file"}[own[0]] if own else "imagenet"
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
