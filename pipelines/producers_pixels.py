"""Columns made from the pixels of one sample: hog, ndi, fft, regions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.column_types import (
    CENTER,
    Parameters,
    Producer,
    Stored,
    channels_first,
    check_frozen,
    each,
    frozen_pixels,
)
from preprocessing.fft import fft_targets, fft_to_uint16
from preprocessing.hog import hog_to_uint8
from preprocessing.indices import INDICES, ndi, ndi_to_int16
from preprocessing.payloads import decode_payload
from preprocessing.slic import slic_regions
from preprocessing.targets import TargetConfig, target_from_pixels, token_frames

_TOKEN = ("patch", "tubelet")
ALL = ("image", "video", "microscopy", "satellite")
OWN_VIEWS = {
    "crop": "refused: only its own frozen views",
    "resize": "refused: only its own frozen views",
    "flip": "exact, as part of its own frozen views; refused for any other",
    "stride": "refused: only its own stride",
}


def _hog(stored: Stored, parameters: Parameters) -> NDArray[np.uint8]:
    """Return (views, N, P) uint8: the descriptor of each token under each frozen view; with
    `scales` LocalMIM's four."""
    target = TargetConfig(
        kind="hog_scales" if parameters["scales"] else "hog",
        **{name: parameters[name] for name in ("cell", "bins", "window")},
    )
    first, (patch, tubelet) = channels_first(stored.ext), (parameters[n] for n in _TOKEN)
    views = [
        target_from_pixels(pixels, target, patch, tubelet, channels_first=first)
        for pixels in frozen_pixels(stored, parameters)
    ]
    return np.stack([hog_to_uint8(view) for view in views])


def _check_hog(parameters: Parameters) -> Parameters:
    check_frozen(parameters)
    patch, size = parameters["patch"], parameters["view"]["size"]
    if not parameters["scales"]:
        if parameters["cell"] < 1 or patch % parameters["cell"]:
            raise ValueError(
                f"cell is {parameters['cell']}; it must divide {patch} px into whole cells."
            )
        return parameters
    if patch % 4 or size % (2 * patch) or parameters["window"]:
        raise ValueError(
            f"scales has cells of a quarter of a patch to two patches, and no window; patch is "
            f"{patch}, view.size {size}, window {parameters['window']}. LocalMIM has 16, 224 and 0."
        )
    return {**parameters, "cell": patch // 4}


def _ndi(stored: Stored, parameters: Parameters) -> NDArray[np.int16]:
    """Return (indices, H, W) int16 of the whole stored tile."""
    bands: Sequence[str] = stored.metadata.get("channels") or ()
    tile = decode_payload(stored.ext, stored.payload)
    return ndi_to_int16(ndi(tile, bands, tuple(parameters["names"])))


def _check_ndi(parameters: Parameters) -> Parameters:
    unknown = [name for name in parameters["names"] if name not in INDICES]
    if unknown or not parameters["names"]:
        raise ValueError(
            f"names is {parameters['names']}; it must hold some of {', '.join(INDICES)}."
        )
    return parameters


def _fft(stored: Stored, parameters: Parameters) -> NDArray[np.uint16]:
    """Return (views, C, S, S // 2 + 1) uint16: Fourier magnitudes of each standardised channel."""
    first = channels_first(stored.ext)
    planes = [p if first else p.transpose(2, 0, 1) for p in frozen_pixels(stored, parameters)]
    return np.stack([fft_to_uint16(fft_targets(p), p.shape[-1] ** 2) for p in planes])


def _regions(stored: Stored, parameters: Parameters) -> NDArray[np.uint16]:
    """Return (H, W) uint16, of a clip (T, H, W): the superpixel of each stored pixel."""
    pixels = decode_payload(stored.ext, stored.payload)
    frames = token_frames(pixels, parameters["tubelet"], channels_first=channels_first(stored.ext))
    labels = [
        slic_regions(f, parameters["segments"], parameters["compactness"], parameters["sigma"])
        for f in frames
    ]
    return np.stack(labels) if pixels.ndim == 4 else labels[0]


PIXEL_PRODUCERS: dict[str, Producer] = {
    "hog": Producer(
        version=3,
        defaults={
            "cell": 8,
            "scales": False,
            "bins": 9,
            "patch": 16,
            "tubelet": 2,
            "stride": 1,
            "window": 0,
            "views": 1,
            "view": CENTER,
        },
        make=each(_hog),
        bound="each entry within 1/510 of the computed one",
        modalities=ALL,
        views=OWN_VIEWS,
        check=_check_hog,
        online=True,
    ),
    "ndi": Producer(
        version=1,
        defaults={"names": ["ndvi", "ndwi", "ndbi"]},
        make=each(_ndi),
        bound="each value within 1/65534 of the computed one",
        modalities=("satellite",),
        views={
            "crop": "exact",
            "resize": "bounded: within the least and the greatest index of the pixels that an "
            "output pixel shows",
            "flip": "exact",
            "stride": "exact: tiles have no time",
        },
        check=_check_ndi,
        online=True,
    ),
    "fft": Producer(
        version=1,
        defaults={"views": 1, "view": CENTER},
        make=each(_fft),
        bound="each magnitude m within log1p(S * S) / 131070 * (1 + m) of the computed one, S the "
        "view's size",
        modalities=("image", "microscopy", "satellite"),
        views=OWN_VIEWS,
        check=check_frozen,
    ),
    "regions": Producer(
        version=1,
        defaults={"segments": 64, "compactness": 10.0, "sigma": 0.0, "tubelet": 2},
        make=each(_regions),
        bound="exact",
        modalities=ALL,
        views={
            "crop": "exact",
            "resize": "bounded: the region of the stored pixel that holds an output pixel's centre",
            "flip": "exact",
            "stride": "refused: only its own tubelets",
        },
    ),
}
