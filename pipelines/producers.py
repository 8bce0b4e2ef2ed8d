"""What can be derived: one line a column in `PRODUCERS`, each around pure functions of
`preprocessing`.

A producer turns the stored payload of one sample into one array. Its version is raised when the
same payload
and parameters would give other values than before: that makes every stored column of it stale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.flow import coarse_flow, dense_flow, flow_to_int16
from preprocessing.hog import hog_to_uint8
from preprocessing.indices import ndi, ndi_to_int16
from preprocessing.motion import motion_grid
from preprocessing.payloads import decode_payload
from preprocessing.randomness import generator
from preprocessing.targets import TargetConfig, target_from_pixels
from preprocessing.video_codec import clip_vectors
from preprocessing.views import View, ViewConfig, apply_view, draw_view
from storage.columns import ColumnSpec

Parameters = dict[str, Any]
VIEW_SEED = 0
"Frozen views do not depend on a run's seed, so that runs with different seeds share their columns."


@dataclass(frozen=True, slots=True)
class Stored:
    """The stored sample that a producer looks at."""

    sample: int
    ext: str
    payload: bytes
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Producer:
    """How one column is made."""

    version: int
    defaults: Parameters
    compute: Callable[[Stored, Parameters], NDArray[np.generic]]
    bound: str
    "how far a stored value may lie from the computed one"
    modalities: tuple[str, ...]
    geometry: str
    "how the column follows a view"


def frozen_view(parameters: Parameters, height: int, width: int, sample: int, index: int) -> View:
    """Return the `index`-th frozen view of a sample: the same for the column and for the training
    stream."""
    config = view_config(parameters)
    return draw_view(config, height, width, generator(VIEW_SEED, index, sample, "view"))


def view_config(parameters: Parameters) -> ViewConfig:
    """Return the view settings among a column's parameters."""
    view = dict(parameters["view"])
    for name in ("scale", "aspect"):
        if name in view:
            view[name] = tuple(view[name])
    return ViewConfig(**view)


def _flow(stored: Stored, parameters: Parameters) -> NDArray[np.int16]:
    """Return (directions, T-1, h, w, 2) int16: backward first, then forward, on cells of `cell`
    px."""
    frames = decode_payload(stored.ext, stored.payload)
    directions = (
        ("backward", "forward") if parameters["direction"] == "both" else (parameters["direction"],)
    )
    fields = [dense_flow(frames, method=parameters["method"], direction=way) for way in directions]
    return np.stack([flow_to_int16(coarse_flow(field, parameters["cell"])) for field in fields])


def _motion(stored: Stored, parameters: Parameters) -> NDArray[np.int16]:
    """Return (T, h, w, 2) int16: the mean codec vector of each cell, flow(j -> j-1)."""
    return flow_to_int16(motion_grid(clip_vectors(stored.payload), parameters["cell"]))


def _hog(stored: Stored, parameters: Parameters) -> NDArray[np.uint8]:
    """Return (views, N, P) uint8: the descriptor of each token under each frozen view."""
    pixels = decode_payload(stored.ext, stored.payload)
    first = channels_first(stored.ext)
    height, width = spatial_shape(pixels, stored.ext)
    names = ("cell", "bins", "window")
    target = TargetConfig(kind="hog", **{name: parameters[name] for name in names})
    targets = []
    for index in range(parameters["views"]):
        view = frozen_view(parameters, height, width, stored.sample, index)
        seen = apply_view(pixels, view, channels_first=first)
        patch, tubelet = parameters["patch"], parameters["tubelet"]
        targets.append(target_from_pixels(seen, target, patch, tubelet, channels_first=first))
    return hog_to_uint8(np.stack(targets))


def _ndi(stored: Stored, parameters: Parameters) -> NDArray[np.int16]:
    """Return (indices, H, W) int16 of the whole stored tile."""
    bands: Sequence[str] = stored.metadata.get("channels") or ()
    tile = decode_payload(stored.ext, stored.payload)
    return ndi_to_int16(ndi(tile, bands, tuple(parameters["names"])))


def channels_first(ext: str) -> bool:
    """Return whether decoded payloads of this kind are (C, H, W)."""
    return ext == "tif"


def spatial_shape(pixels: NDArray[np.generic], ext: str) -> tuple[int, int]:
    """Return the height and width of a decoded payload."""
    height, width = pixels.shape[-2:] if channels_first(ext) else pixels.shape[-3:-1]
    return height, width


_CENTER = {"kind": "center", "size": 224, "flip": False}
PRODUCERS: dict[str, Producer] = {
    "flow": Producer(
        1,
        {"method": "dis_medium", "direction": "both", "cell": 8},
        _flow,
        "each component within 1/128 px of the cell's mean flow, up to 511 px",
        ("video",),
        "crop and flip exact on cell borders, resize by bilinear resampling of the cells",
    ),
    "motion": Producer(
        1,
        {"cell": 8},
        _motion,
        "each component within 1/128 px of the cell's mean vector, up to 511 px",
        ("video",),
        "crop and flip exact on cell borders, resize by bilinear resampling of the cells",
    ),
    "hog": Producer(
        1,
        {"cell": 8, "bins": 9, "patch": 16, "tubelet": 2, "window": 0, "views": 1, "view": _CENTER},
        _hog,
        "each entry within 1/510 of the computed one",
        ("image", "video", "microscopy", "satellite"),
        "only under its own frozen views, flip included",
    ),
    "ndi": Producer(
        1,
        {"names": ["ndvi", "ndwi", "ndbi"]},
        _ndi,
        "each value within 1/65534 of the computed one",
        ("satellite",),
        "crop and flip exact, resize by resampling the index map",
    ),
}


def column_spec(column: str, overrides: Parameters) -> ColumnSpec:
    """Return the complete, checked description of a column.

    Raises:
        ValueError: an unknown column or parameter, or a value of another type than its default.
    """
    if column not in PRODUCERS:
        raise ValueError(
            f"column {column!r} is unknown. Known: {', '.join(PRODUCERS)}. Add one in "
            "pipelines/producers.py."
        )
    producer = PRODUCERS[column]
    parameters = dict(producer.defaults)
    for name, value in overrides.items():
        parameters[name] = _checked(column, name, value, producer.defaults)
    if "view" in parameters:
        parameters["view"] = _canonical_view(parameters["view"])
    return ColumnSpec(column, column, producer.version, parameters, producer.bound)


def _checked(column: str, name: str, value: Any, defaults: Parameters) -> Any:
    if name not in defaults:
        raise ValueError(
            f"column {column}: parameter {name!r} is unknown. Known: {', '.join(defaults)}."
        )
    if type(value) is not type(defaults[name]):
        raise ValueError(
            f"column {column}: {name} is {value!r}; it must be like {defaults[name]!r}, its "
            "default."
        )
    return value


def _canonical_view(view: Parameters) -> Parameters:
    """Return view settings with every default spelled out, so that equal views have equal
    fingerprints."""
    config = view_config({"view": view})
    return {
        "kind": config.kind,
        "size": config.size,
        "scale": list(config.scale),
        "aspect": list(config.aspect),
        "flip": config.flip,
    }
