"""Stored samples and their columns as pictures of a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyarrow import compute

from flows.report_parts import ColumnSection, Exhibit, Image, Row, image
from flows.report_pictures import (
    diverging,
    fitted,
    flow_over,
    flow_wheel,
    full_flow,
    hog_cells_of_tokens,
    hog_glyphs,
    stained,
    strip,
    true_colour,
)
from pipelines.column_codec import unpack_array
from pipelines.keys import sample_id
from pipelines.producers import channels_first, frozen_view, spatial_shape
from pipelines.rows import place_of
from preprocessing.flow import int16_to_flow
from preprocessing.hog import uint8_to_hog
from preprocessing.indices import int16_to_ndi
from preprocessing.payloads import decode_payload
from preprocessing.views import apply_view
from storage.columns import ColumnSpec, column_path, index_path, part_state
from storage.fs import Store
from storage.manifest import read_table
from storage.shards import ShardReader
from storage.snapshots import Snapshot, part_path

SHOWN_FRAMES = 6
THUMBNAIL, EXHIBIT = 120, 144
"Longer edges in px; six exhibits and their label fill a page of 1080 px."


@dataclass(frozen=True, slots=True)
class Shown:
    """A sample that a report shows."""

    part: str
    shard: str
    "file name of its shard"
    row: dict[str, Any]
    "its manifest row"
    stored: NDArray[Any]
    "the decoded payload"
    bands: list[str]

    def frames(self) -> list[NDArray[np.uint8]]:
        """Return the sample as RGB pictures; a clip gives several."""
        if self.stored.ndim == 4:
            chosen = np.linspace(0, len(self.stored) - 1, SHOWN_FRAMES).round().astype(int)
            return [self.stored[i] for i in chosen]
        if not channels_first(self.row["ext"]):
            return [self.stored]
        paint = true_colour if "crs" in json.loads(self.row["metadata"]) else stained
        return [paint(self.stored, self.bands)]


def choose(store: Store, snapshot: Snapshot, count: int) -> list[Shown]:
    """Return samples spread over the labels and the length of a snapshot."""
    chosen: list[Shown] = []
    for entry in snapshot.parts:
        folder = part_path(snapshot.dataset, entry.part)
        table = read_table(store, f"{folder}/manifest.parquet", entry.manifest_sha256)
        for place in _spread(np.array(table["label"].to_pylist()), count)[: count - len(chosen)]:
            row = table.slice(place, 1).to_pylist()[0]
            shard = entry.shards[row["shard"]]["name"]
            payload = _member(store, f"{folder}/{shard}", row)
            bands = json.loads(row["metadata"]).get("channels") or []
            chosen.append(Shown(entry.part, shard, row, decode_payload(row["ext"], payload), bands))
    return chosen


def _spread(labels: NDArray[Any], count: int) -> list[int]:
    """Return places of samples, label by label in turns, of each label from its first to its last.

    Of very many labels those of the first `count` are taken.
    """
    _, codes = np.unique(labels, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    turns = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)[:count]
    spread = [ids[np.linspace(0, len(ids) - 1, count).astype(int)] for ids in turns if len(ids)]
    return list(dict.fromkeys(np.stack(spread, 1).ravel().tolist())) if spread else []


def _member(store: Store, path: str, row: dict[str, Any]) -> bytes:
    with ShardReader(store, path, path) as reader:
        return reader.read(*place_of(row), row["key"])


def thumbnails(shown: list[Shown]) -> tuple[Image, ...]:
    """Return one small picture a sample, its label below."""
    return tuple(
        image(
            fitted(sample.frames()[len(sample.frames()) // 2], THUMBNAIL),
            sample.row["label"] or sample.row["key"],
        )
        for sample in shown
    )


def column_section(
    store: Store, dataset: str, spec: ColumnSpec, size_bytes: int, shown: list[Shown]
) -> ColumnSection:
    """Return a column with its values drawn over the first few samples."""
    draw = DRAWN.get(spec.column)
    exhibits = []
    for sample in shown if draw else []:
        value = _value(store, dataset, spec, sample)
        if value is not None and draw is not None:
            exhibits.append(Exhibit(title=sample.row["key"], rows=tuple(draw(sample, spec, value))))
    key = (
        image(flow_wheel(), "colour of motion: hue is direction, strength is speed")
        if spec.column in ("flow", "motion")
        else None
    )
    return ColumnSection(
        name=spec.column,
        fingerprint=spec.fingerprint,
        version=spec.version,
        parameters=spec.parameters,
        bound=spec.bound,
        bytes=size_bytes,
        exhibits=tuple(exhibits),
        key=key,
    )


def _value(store: Store, dataset: str, spec: ColumnSpec, sample: Shown) -> NDArray[Any] | None:
    if part_state(store, dataset, spec, sample.part) != "complete":
        return None
    index = read_table(store, index_path(dataset, spec, sample.part))
    row = index.filter(compute.equal(index["key"], sample.row["key"])).to_pylist()[0]
    folder = f"{column_path(dataset, spec.column, spec.fingerprint)}/{sample.part}"
    return unpack_array(_member(store, f"{folder}/{sample.shard}", row))


def _row(label: str, pictures: list[NDArray[np.uint8]]) -> Row:
    frames = [fitted(picture, EXHIBIT) for picture in pictures]
    return Row(label=label, image=image(strip(frames), frames=len(frames)))


def _draw_flow(sample: Shown, spec: ColumnSpec, value: NDArray[Any]) -> Iterator[Row]:
    frames = sample.stored
    # Both point from a frame to its predecessor; frame 0 has none.
    fields = int16_to_flow(value[1:] if spec.column == "motion" else value[0])
    steps = np.linspace(1, len(frames) - 1, SHOWN_FRAMES).round().astype(int)
    full = full_flow(fields)
    yield _row("frames", [frames[i] for i in steps])
    label = f"{spec.column} to the frame before, full colour {full:.1f} px"
    yield _row(label, [flow_over(frames[i], fields[i - 1], full) for i in steps])


def _draw_hog(sample: Shown, spec: ColumnSpec, value: NDArray[Any]) -> Iterator[Row]:
    parameters = spec.parameters
    shape = spatial_shape(sample.stored, sample.row["ext"])
    first = channels_first(sample.row["ext"])
    view = frozen_view(parameters, *shape, sample_id(sample.row["key"]), 0)
    seen = apply_view(sample.stored, view, channels_first=first)
    edge = view.size // parameters["patch"]
    times = value.shape[1] // edge**2
    channels = seen.shape[0] if first else seen.shape[-1]
    tokens = uint8_to_hog(value[0]).reshape(times, edge**2, -1)
    steps = np.linspace(0, times - 1, min(times, SHOWN_FRAMES)).round().astype(int)
    viewed = replace(sample, stored=seen)
    pictures = (
        [seen[t * parameters["tubelet"]] for t in steps] if seen.ndim == 4 else viewed.frames()
    )
    yield _row("frozen view 0", pictures)
    cells = [
        hog_cells_of_tokens(tokens[t], (edge, edge), channels, parameters["bins"]) for t in steps
    ]
    yield _row("gradient histograms", [hog_glyphs(histograms) for histograms in cells])


def _draw_ndi(sample: Shown, spec: ColumnSpec, value: NDArray[Any]) -> Iterator[Row]:
    yield _row("true colour", sample.frames())
    maps = int16_to_ndi(value)
    yield _row(" · ".join(spec.parameters["names"]), [diverging(plane) for plane in maps])


Drawer = Callable[[Shown, ColumnSpec, NDArray[Any]], Iterator[Row]]
DRAWN: dict[str, Drawer] = {
    "flow": _draw_flow,
    "motion": _draw_flow,
    "hog": _draw_hog,
    "ndi": _draw_ndi,
}
