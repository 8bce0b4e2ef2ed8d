"""What a producer of a column is, and the frozen views that producers and streams share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.payloads import decode_payload
from preprocessing.randomness import generator
from preprocessing.views import View, ViewConfig, apply_view, draw_view

Array = NDArray[np.generic]
Parameters = dict[str, Any]
VIEW_SEED = 0
"Frozen views do not depend on a run's seed, so that runs with different seeds share their columns."
CENTER = {"kind": "center", "size": 224, "flip": False}


@dataclass(frozen=True, slots=True)
class Stored:
    """The stored sample that a producer looks at."""

    sample: int
    ext: str
    payload: bytes
    metadata: dict[str, Any]
    shape: tuple[int, ...] = ()
    "of the decoded payload"
    inputs: Mapping[str, Array] = field(default_factory=dict)
    "this sample's arrays of the columns that the producer needs"


Make = Callable[[Iterable[Stored], Parameters, bytes | None], Iterator[Array]]
"""Turns stored samples into one array each, in order, by a column's parameters and, where it has
one, its artefact: centroids, weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Producer:
    """How one column is made, and how it follows a view."""

    version: int
    "raised when the same payload and parameters would give other values than before"
    defaults: Parameters
    make: Make
    bound: str
    "how far a stored value may lie from the computed one"
    modalities: tuple[str, ...]
    views: Mapping[str, str]
    "for crop, resize, flip and stride: exact, bounded: …, or refused: …"
    check: Callable[[Parameters], Parameters] = lambda parameters: parameters
    "refuses parameters that cannot be, and spells out the others"
    needs: Callable[[Parameters], dict[str, Parameters]] = lambda parameters: {}
    "columns that this one is made from, with their parameters"
    artefact: str = ""
    "the parameter that names centroids or weights by the SHA-256 of their bytes; empty: none"
    fitted: bool = False
    "the artefact is fitted to the dataset's first part, not given from outside"
    wants_artefact: Callable[[Parameters], bool] = lambda parameters: True
    check_artefact: Callable[[bytes, Parameters], None] = lambda artefact, parameters: None
    "refuses weights that are not this column's, before anything is written"
    decodes: bool = True
    "whether the samples are decoded to pixels, which a stream does anyway"
    online: bool = False
    "whether a stream can make it too, as it trains"

    @property
    def text(self) -> str:
        """The bound and the view operations in one line: what `column.json` says."""
        told = "; ".join(f"{operation} {support}" for operation, support in self.views.items())
        return f"{self.bound}. Views: {told}"

    @property
    def frozen(self) -> bool:
        """Whether the column belongs to its own frozen views, and follows no other."""
        return self.views.get("crop", "").startswith("refused")


def each(function: Callable[[Stored, Parameters], Array]) -> Make:
    """Return the maker of a column whose samples have nothing to do with each other."""

    def make(
        samples: Iterable[Stored], parameters: Parameters, artefact: bytes | None
    ) -> Iterator[Array]:
        return (function(stored, parameters) for stored in samples)

    return make


def view_config(parameters: Parameters) -> ViewConfig:
    """Return the view settings among a column's parameters."""
    view = dict(parameters["view"])
    for name in ("scale", "aspect"):
        if name in view:
            view[name] = tuple(view[name])
    return ViewConfig(**view)


def canonical_view(view: Parameters) -> Parameters:
    """Return view settings with every default spelled out, so that equal views have equal
    fingerprints."""
    plain = asdict(view_config({"view": view}))
    return {name: list(v) if isinstance(v, tuple) else v for name, v in plain.items()}


def frozen_view(parameters: Parameters, height: int, width: int, sample: int, index: int) -> View:
    """Return the `index`-th frozen view of a sample: the same for the column and for the training
    stream."""
    config = view_config(parameters)
    return draw_view(config, height, width, generator(VIEW_SEED, index, sample, "view"))


def frozen_pixels(stored: Stored, parameters: Parameters) -> Iterator[Array]:
    """Yield the sample under each of its frozen views, in the stored layout."""
    pixels = decode_payload(stored.ext, stored.payload)
    first = channels_first(stored.ext)
    if not first and pixels.ndim == 4:
        pixels = pixels[:: parameters.get("stride", 1)]
    shape = spatial_shape(pixels, stored.ext)
    for index in range(parameters["views"]):
        view = frozen_view(parameters, *shape, stored.sample, index)
        yield apply_view(pixels, view, channels_first=first)


def check_frozen(parameters: Parameters) -> Parameters:
    """Check what all columns of frozen views have."""
    for name in ("views", "stride", "patch", "tubelet"):
        if parameters.get(name, 1) < 1:
            raise ValueError(f"{name} is {parameters[name]}; it must be 1 or more.")
    size, patch = view_config(parameters).size, parameters.get("patch", 1)
    if size % patch:
        raise ValueError(
            f"view.size is {size}, patch is {patch}; the view must hold whole patches. "
            f"Use view.size={max(size // patch, 1) * patch}."
        )
    return parameters


def channels_first(ext: str) -> bool:
    """Return whether decoded payloads of this kind are (C, H, W)."""
    return ext == "tif"


def spatial_shape(pixels: Array, ext: str) -> tuple[int, int]:
    """Return the height and width of a decoded payload."""
    height, width = pixels.shape[-2:] if channels_first(ext) else pixels.shape[-3:-1]
    return height, width


def stored_extent(stored: Stored) -> tuple[int, int, int]:
    """Return (frames, height, width) of a sample without decoding it; 0 frames for a still."""
    shape = stored.shape
    if channels_first(stored.ext):
        return 0, shape[-2], shape[-1]
    return (shape[0] if len(shape) == 4 else 0), shape[-3], shape[-2]
