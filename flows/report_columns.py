"""Derived columns as pictures of a report: each value drawn over the sample it belongs to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyarrow import compute

from flows.report_parts import ColumnSection, Exhibit, Row, image
from flows.report_pictures import (
    borders_over,
    code_colours,
    diverging,
    feature_colours,
    flow_over,
    flow_wheel,
    full_flow,
    hog_cells_of_tokens,
    hog_glyphs,
    overlay_mask,
    stretched,
)
from flows.report_samples import SHOWN_FRAMES, Shown, labelled, member
from pipelines.column_codec import unpack_array
from pipelines.keys import sample_id
from pipelines.producers import channels_first, frozen_view, spatial_shape
from pipelines.producers_motion import token_grid
from preprocessing.bits import unpack_mask
from preprocessing.fft import full_spectrum, uint16_to_fft
from preprocessing.flow import int16_to_flow
from preprocessing.hog import uint8_to_hog
from preprocessing.indices import int16_to_ndi
from preprocessing.targets import SCALE_SHARES
from preprocessing.views import apply_view, center_view
from storage.columns import ColumnSpec, column_path, index_path, part_state
from storage.fs import Store
from storage.manifest import read_table


def column_section(
    store: Store, dataset: str, spec: ColumnSpec, about: dict[str, Any], shown: list[Shown]
) -> ColumnSection:
    """Return a column with its values drawn over a few samples; `about` is its line of the
    catalog."""
    exhibits = []
    for sample in shown if spec.column in DRAWN else []:
        value = _value(store, dataset, spec, sample)
        if value is not None and (rows := tuple(DRAWN[spec.column](sample, spec, value))):
            exhibits.append(Exhibit(title=sample.row["key"], rows=rows))
    there, _, parts = about["parts"].partition(" of ")
    wheel = "colour of motion: hue is direction, strength is speed"
    return ColumnSection(
        name=spec.column,
        fingerprint=spec.fingerprint,
        version=spec.version,
        parameters=spec.parameters,
        bound=spec.bound,
        bytes=about["bytes"],
        lacks="" if there == parts else f"only {about['parts']} parts have it",
        exhibits=tuple(exhibits),
        key=image(flow_wheel(), wheel) if spec.column in ("flow", "motion") else None,
    )


def _value(store: Store, dataset: str, spec: ColumnSpec, sample: Shown) -> NDArray[Any] | None:
    if part_state(store, dataset, spec, sample.part) != "complete":
        return None
    index = read_table(store, index_path(dataset, spec, sample.part))
    row = index.filter(compute.equal(index["key"], sample.row["key"])).to_pylist()[0]
    folder = f"{column_path(dataset, spec.column, spec.fingerprint)}/{sample.part}"
    return unpack_array(member(store, f"{folder}/{sample.shard}", row))


def _viewed(sample: Shown, parameters: dict[str, Any]) -> Shown:
    """Return the sample at the column's stride under its first frozen view."""
    pixels = sample.stored
    if pixels.ndim == 4:
        pixels = pixels[:: parameters.get("stride", 1)]
    view = frozen_view(
        parameters, *spatial_shape(pixels, sample.row["ext"]), sample_id(sample.row["key"]), 0
    )
    first = channels_first(sample.row["ext"])
    return replace(sample, stored=apply_view(pixels, view, channels_first=first))


def _times(count: int) -> list[int]:
    """Return at most `SHOWN_FRAMES` places of so many, the first and the last among them."""
    return [int(i) for i in np.linspace(0, count - 1, min(count, SHOWN_FRAMES)).round()]


def _draw_flow(sample: Shown, spec: ColumnSpec, value: NDArray[Any]) -> Iterator[Row]:
    stride = spec.parameters.get("stride", 1)
    frames = sample.stored[::stride]
    # Both point from a frame to its predecessor; frame 0 has none.
    fields = int16_to_flow(value[1:] if spec.column == "motion" else value[0])
    steps = [i + 1 for i in _times(len(fields))]
    full = full_flow(fields)
    yield labelled("frames", [frames[i] for i in steps])
    before = "the frame before" if stride == 1 else f"the frame {stride} before"
    label = f"{spec.column} to {before}, full colour {full:.1f} px"
    yield labelled(label, [flow_over(frames[i], fields[i - 1], full) for i in steps])


def _draw_hog(sample: Shown, spec: ColumnSpec, value: NDArray[Any]) -> Iterator[Row]:
    parameters = spec.parameters
    seen = _viewed(sample, parameters)
    edge = parameters["view"]["size"] // parameters["patch"]
    channels = seen.stored.shape[0 if channels_first(seen.row["ext"]) else -1]
    tokens = uint8_to_hog(value[0]).reshape(-1, edge**2, value.shape[-1])
    if parameters["scales"]:  # the finest one is drawn
        shares = SCALE_SHARES[0] / sum(SCALE_SHARES)
        tokens = tokens[..., : round(tokens.shape[-1] * shares)]
    times = _times(len(tokens))
    yield labelled("frozen view 0", seen.frames_at([t * parameters["tubelet"] for t in times]))
    cells = [
        hog_cells_of_tokens(tokens[t], (edge, edge), channels, parameters["bins"]) for t in times
    ]
    yield labelled("gradient histograms", [hog_glyphs(histograms) for histograms in cells])


def _draw_ndi(sample: Shown, spec: ColumnSpec, value: NDArray[Any]) -> Iterator[Row]:
    yield labelled("true colour", sample.frames())
    maps = int16_to_ndi(value)
    reach = max(0.05, float(np.nanpercentile(np.abs(maps), 98)))
    label = f"brown −{reach:.2f}, white 0, green +{reach:.2f}"
    yield labelled(label, [diverging(plane, reach) for plane in maps], spec.parameters["names"])


def _draw_fft(sample: Shown, spec: ColumnSpec, value: NDArray[Any]) -> Iterator[Row]:
    seen = _viewed(sample, spec.parameters)
    size = value.shape[-2]
    magnitudes = full_spectrum(uint16_to_fft(value[0], size**2), size)
    planes = [stretched(np.log1p(np.fft.fftshift(one))) for one in magnitudes]
    names = sample.bands or ("red", "green", "blue")
    yield labelled("frozen view 0", seen.frames())
    label = "log magnitude, low frequencies in the middle"
    yield labelled(label, [_grey(plane) for plane in planes], names)


def _grey(plane: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(plane * 255).astype(np.uint8)[..., None].repeat(3, -1)


def _draw_regions(sample: Shown, spec: ColumnSpec, value: NDArray[Any]) -> Iterator[Row]:
    labels = value if value.ndim == 3 else value[None]
    times = _times(len(labels))
    frames = sample.frames_at([t * spec.parameters["tubelet"] for t in times])
    drawn = [borders_over(frame, labels[t]) for frame, t in zip(frames, times, strict=True)]
    yield labelled("borders of superpixels", drawn)


def _draw_codes(sample: Shown, spec: ColumnSpec, value: NDArray[Any]) -> Iterator[Row]:
    seen = _viewed(sample, spec.parameters)
    edge = spec.parameters["view"]["size"] // spec.parameters["patch"]
    codes = value[0].reshape(-1, edge, edge)
    times = _times(len(codes))
    yield labelled("frozen view 0", seen.frames_at([t * spec.parameters["tubelet"] for t in times]))
    yield labelled("nearest centroid, a colour each", [code_colours(codes[t]) for t in times])


def _draw_features(sample: Shown, spec: ColumnSpec, value: NDArray[Any]) -> Iterator[Row]:
    """Draw the tokens of a still; where they lie in a clip the encoder alone knows."""
    edge = math.isqrt(value.shape[1])
    if sample.stored.ndim == 4 or edge**2 != value.shape[1]:
        return
    yield labelled("frozen view 0", _viewed(sample, spec.parameters).frames())
    colours = feature_colours(value[0].astype(np.float64))
    yield labelled(
        "three main directions of the tokens as colours", [colours.reshape(edge, edge, 3)]
    )


def _draw_masks(sample: Shown, spec: ColumnSpec, value: NDArray[Any]) -> Iterator[Row]:
    parameters = spec.parameters
    clip = sample.stored.ndim == 4
    grid = token_grid(len(sample.stored) if clip else 0, parameters)
    mask = unpack_mask(value[0], math.prod(grid)).reshape(grid)
    seen = _viewed(sample, parameters) if parameters["views"] else _middle(sample, parameters)
    count = grid[0] * parameters["tubelet"] if clip else grid[0]
    frames = np.stack(seen.frames_at(range(count)) if clip else seen.frames() * count)
    times, where = _times(count), "frozen view 0" if parameters["views"] else "middle of the sample"
    yield labelled(where, [frames[t] for t in times])
    hidden = overlay_mask(frames, mask)
    yield labelled(f"draw 0 of {len(value)}: {mask.mean():.0%} hidden", [hidden[t] for t in times])


def _middle(sample: Shown, parameters: dict[str, Any]) -> Shown:
    """Return the middle of a sample, for masks that belong to no view."""
    first, pixels = channels_first(sample.row["ext"]), sample.stored
    if pixels.ndim == 4:
        pixels = pixels[:: parameters["stride"]]
    view = center_view(parameters["size"], *spatial_shape(pixels, sample.row["ext"]))
    return replace(sample, stored=apply_view(pixels, view, channels_first=first))


Drawer = Callable[[Shown, ColumnSpec, NDArray[Any]], Iterator[Row]]
DRAWN: dict[str, Drawer] = {
    "flow": _draw_flow,
    "motion": _draw_flow,
    "hog": _draw_hog,
    "ndi": _draw_ndi,
    "fft": _draw_fft,
    "regions": _draw_regions,
    "codes": _draw_codes,
    "features": _draw_features,
    "masks": _draw_masks,
}
