"""Stored samples as pictures of a report: thumbnails, and the bands or channels of a few."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.report_parts import Exhibit, Image, Row, image
from flows.report_pictures import fitted, stained, stretched, strip, true_colour
from pipelines.producers import channels_first
from pipelines.rows import place_of
from preprocessing.payloads import decode_payload
from storage.fs import Store
from storage.manifest import read_table
from storage.shards import ShardReader
from storage.snapshots import Snapshot, part_path

SHOWN_FRAMES = 6
THUMBNAIL, EXHIBIT, ALONE = 240, 144, 224
"Longer edges in px, as stored; six exhibits and their label fill a page of 1080 px."
INFRARED = ("B08", "B04", "B03")
"Bands of the usual composite in which plants are red."
MOST_BANDS = 16


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
        paint = true_colour if self.satellite else stained
        return [paint(self.stored, self.bands)]

    def frames_at(self, times: Iterable[int]) -> list[NDArray[np.uint8]]:
        """Return these frames of a clip; a still gives its picture."""
        return [self.stored[t] for t in times] if self.stored.ndim == 4 else self.frames()

    @property
    def satellite(self) -> bool:
        """Whether it is a tile of a scene."""
        return "crs" in json.loads(self.row["metadata"])


def choose(store: Store, snapshot: Snapshot, count: int) -> list[Shown]:
    """Return samples spread over the labels and the length of a snapshot."""
    chosen: list[Shown] = []
    for entry in snapshot.parts:
        folder = part_path(snapshot.dataset, entry.part)
        table = read_table(store, f"{folder}/manifest.parquet", entry.manifest_sha256)
        for place in _spread(np.array(table["label"].to_pylist()), count)[: count - len(chosen)]:
            row = table.slice(place, 1).to_pylist()[0]
            shard = entry.shards[row["shard"]]["name"]
            payload = member(store, f"{folder}/{shard}", row)
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


def member(store: Store, path: str, row: dict[str, Any]) -> bytes:
    """Return the payload of a row of a manifest or of a column's index."""
    with ShardReader(store, path, path) as reader:
        return reader.read(*place_of(row), row["key"])


def thumbnails(shown: list[Shown]) -> tuple[Image, ...]:
    """Return one small picture a sample, its label or its raw file's name below."""
    return tuple(
        image(
            fitted(sample.frames()[len(sample.frames()) // 2], THUMBNAIL),
            sample.row["label"] or PurePosixPath(sample.row["source"]).name or sample.row["key"],
        )
        for sample in shown
    )


def labelled(label: str, pictures: Sequence[NDArray[np.uint8]], names: Sequence[str] = ()) -> Row:
    """Return a strip of pictures of equal size, each with its name below where there are any."""
    edge = ALONE if len(pictures) == 1 else EXHIBIT
    frames = [fitted(picture, edge) for picture in pictures]
    return Row(label=label, image=image(strip(frames), frames=len(frames)), names=tuple(names))


def composites(shown: list[Shown]) -> tuple[Exhibit, ...]:
    """Return fields and tiles as their composites, and each channel or band alone."""
    return tuple(
        Exhibit(title=sample.row["key"], rows=_composite_rows(sample))
        for sample in shown
        if channels_first(sample.row["ext"])
    )


def _composite_rows(sample: Shown) -> tuple[Row, ...]:
    bands = sample.bands or [str(i) for i in range(len(sample.stored))]
    pictures, names = sample.frames(), ["true colour" if sample.satellite else "all channels"]
    if sample.satellite and set(INFRARED) <= set(bands):
        places = [bands.index(name) for name in INFRARED]
        pictures.append(true_colour(sample.stored[places], ()))
        names.append(f"infrared: {' '.join(INFRARED)}")
    alone = [
        np.rint(stretched(plane) * 255).astype(np.uint8)[..., None].repeat(3, -1)
        for plane in sample.stored[:MOST_BANDS]
    ]
    what = "band" if sample.satellite else "channel"
    each = f"each {what}, 1 to 99 % of its values"
    return labelled("composite", pictures, names), labelled(each, alone, bands[:MOST_BANDS])
