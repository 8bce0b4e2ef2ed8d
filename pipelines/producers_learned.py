"""Columns that look through something learned: codes (centroids of patches), features (a frozen
encoder). What was learned is the column's artefact; its hash is among the parameters."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
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

NORMS = ("auto", "file", "imagenet", "half", "unit", "self")
"How an encoder's inputs are normalised; auto is as its file says, or ImageNet's."


def _codes(
    samples: Iterable[Stored], parameters: Parameters, artefact: bytes | None
) -> Iterator[NDArray[np.uint16]]:
    """Yield (views, N) uint16: the nearest centroid of each patch under each frozen view."""
    centroids = read_centroids(given_artefact(artefact, "codes"))
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


def given_artefact(artefact: bytes | None, column: str) -> bytes:
    """Return an artefact that must be there."""
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
) -> Iterator[Array]:
    """Yield (views, N, D) float16: the encoder's patch tokens under each frozen view."""
    from pipelines.encoders import encode_samples  # torch: only who asks for features loads it

    return encode_samples(samples, parameters, given_artefact(artefact, "features"))


def _check_weights(artefact: bytes, parameters: Parameters) -> None:
    from pipelines.encoders import check_encoder

    check_encoder(artefact, parameters)


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
        version=2,
        defaults={**_FROZEN, "norm": "auto", "heads": 0, "weights": ""},
        make=_features,
        bound="each value within 1/2048 of itself (float16) of the computed one, which is float32 "
        "on the worker's own device",
        modalities=ALL,
        views=OWN_VIEWS,
        check=_check_features,
        artefact="weights",
        check_artefact=_check_weights,
    ),
}
