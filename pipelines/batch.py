"""Rows become a batch: read, seen under a view, masked, joined with targets.

Both feeds build with the same places and epoch; every random choice is keyed by (seed, epoch,
sample, purpose), so who calls it, and when, cannot change a batch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from copy import copy
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.column_codec import unpack_array
from pipelines.device_stage import Ready, Stage, Undecoded
from pipelines.keys import sample_id
from pipelines.members import OPEN_SHARDS, Members
from pipelines.memory import Blocks, SharedBlocks
from pipelines.pictures import Picture, Pictures
from pipelines.pixel_block import PixelBlock
from pipelines.producers import channels_first
from pipelines.rows import Row, ShardRows, shard_sizes
from pipelines.series import Places, places_of
from pipelines.stalls import Clock
from pipelines.stream import STREAM_TARGETS, StreamConfig
from pipelines.tokens import Unmasked, choose_tokens
from preprocessing.decode_torch import DEVICE_EXTENSIONS
from preprocessing.errors import DecodeError
from preprocessing.hog import uint8_to_hog
from preprocessing.indices import INDICES, int16_to_ndi, ndi
from preprocessing.randomness import generator
from preprocessing.targets import (
    TargetConfig,
    label_target,
    patch_values,
    target_from_pixels,
)
from preprocessing.views import apply_view
from storage.shards import ShardError

Batch = dict[str, Any]
Arrays = dict[str, Any]
Place = tuple[int, int]


class About(NamedTuple):
    """What travels with a batch and is no part of it."""

    seconds: dict[str, float]
    "of building, by stage"
    failed: list[tuple[str, str]]
    "key and error of the samples that were replaced"
    replaced: int
    "how many samples of the batch are substitutes"
    done: float
    "when it was finished, by the machine's monotonic clock"
    repeated: int
    "how many samples of the batch are series with a picture more than once"
    block: int
    "number of the shared block that its pixels lie in, or -1; see `pipelines.memory`"


Told = tuple[Batch, About]


class Seen(NamedTuple):
    """A sample as a batch sees it: what its targets are made from."""

    picture: Picture
    fields: Mapping[str, Any]
    epoch: int


class BatchBuilder:
    """Builds batches of one stream; keeps the shards it reads open."""

    def __init__(
        self, store_uri: str, stream: StreamConfig, rows: list[ShardRows], *, labelled: bool = False
    ) -> None:
        self.store_uri, self.stream, self.rows, self.labelled = store_uri, stream, rows, labelled
        self.columns = stream.needed_columns()
        self.members = Members(store_uri, stream.dataset, rows)
        self.cache = self.members.cache
        self.pictures = Pictures(stream)
        self._ends = np.cumsum(shard_sizes(rows))
        self._places: dict[int, Places] = {}
        self._clock = Clock()
        self._failed: list[tuple[str, str]] = []
        self._substitutes = self._repeated = 0
        self.stage: Stage | None = None
        "a device that decodes, where one does"
        self._ready: dict[str, Ready] = {}
        self.blocks: Blocks | SharedBlocks = Blocks()
        "where the pixels of batches are written"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "blocks": Blocks(), "_ready": {}}

    def apart(self) -> Self:
        """Return a builder of the same batches that may be used beside this one, by a thread."""
        other = copy(self)
        other.members = copy(self.members)
        return other

    def build(self, places: list[Place], epoch: int) -> Batch:
        """Return the batch of the samples at `places` ((shard, row) pairs) as seen in `epoch`."""
        return self.build_told(places, epoch)[0]

    def build_told(self, places: list[Place], epoch: int) -> Told:
        """Return a batch and what is to be told about it: seconds by stage, samples that failed.

        Raises:
            ShardError, DecodeError: a sample is damaged, and the stream allows no failures.
        """
        verified = self._begin()
        pixels, samples, rows = PixelBlock(len(places), self.blocks), [], []
        unmasked: list[Unmasked] = []
        if self.stage is not None:
            self._ready = self.stage.make(self._undecoded(places, epoch))
            self._clock.lap("decode")
        for place in places:
            self.pictures.room = pixels.room(len(samples))
            arrays, fields = self._replaced(place, epoch)
            pixels.put(len(samples), arrays.pop("pixels"), fields["ext"])
            if not self.labelled:
                unmasked.append(arrays.pop("unmasked"))
            samples.append(arrays)
            rows.append(fields)
        self.pictures.room = None
        self._clock.lap("join")
        if not self.labelled:
            device = self.stage.device if self.stage is not None else torch.device("cpu")
            tokens = choose_tokens(self.stream, self.columns, unmasked, epoch, device)
            samples = [arrays | own for arrays, own in zip(samples, tokens, strict=True)]
        self._clock.lap("mask")
        batch: Batch = {"pixels": pixels.tensor} | {
            name: torch.from_numpy(np.stack([sample[name] for sample in samples]))
            for name in samples[0]
        }
        if self.labelled:
            for name in ("label", "split", "key"):
                batch[name] = [row[name] for row in rows]
        self._clock.lap("join")
        return batch, self._about(verified)

    def _begin(self) -> float:
        """Begin to keep the books of a batch; returns the seconds of checksums before it."""
        self._clock, self._failed = Clock(), []
        self._substitutes = self._repeated = 0
        return self.members.verifying

    def _about(self, verified: float) -> About:
        self._clock.move(self.members.verifying - verified, "read", "verify")
        return About(
            seconds=self._clock.seconds,
            failed=self._failed,
            replaced=self._substitutes,
            done=time.perf_counter(),
            repeated=self._repeated,
            block=self.blocks.taken,
        )

    def _undecoded(self, places: list[Place], epoch: int) -> list[Undecoded]:
        """Return what a device may decode of a batch; what cannot be read is left for its turn."""
        found = []
        for shard, row in places:
            fields = self.rows[shard].row(row)
            key, ext, shape = fields["key"], fields["ext"], fields["shape"]
            if ext not in DEVICE_EXTENSIONS:
                continue
            try:
                payload = self.members.payload(shard, row)
            except ShardError:
                continue
            extent = tuple(shape[1:3] if ext == "mp4" else shape[:2])
            view = self.pictures.view(extent, sample_id(key), epoch)
            found.append(Undecoded(key, ext, payload, view))
        return found

    def _replaced(self, place: Place, epoch: int) -> tuple[Arrays, Row]:
        """Return a sample, or the substitute of one that fails.

        The substitute is drawn by (seed, epoch, sample) from all samples, so it is the same on
        every rank, in every worker and at every resume.
        """
        intended, fields = None, self.rows[place[0]].row(place[1])
        while True:
            try:
                return self._sample(*place, fields, epoch), fields
            except (ShardError, DecodeError) as error:
                if intended is None:
                    intended = sample_id(fields["key"])
                    self._substitutes += 1
                    draws = generator(self.stream.seed, epoch, intended, "substitute")
                self._failed.append((fields["key"], str(error)))
                if len({key for key, _ in self._failed}) > self.stream.failures:
                    raise
            place = self._place_on_line(int(draws.integers(self._ends[-1])))
            fields = self.rows[place[0]].row(place[1])

    def _place_on_line(self, line: int) -> Place:
        shard = int(np.searchsorted(self._ends, line, side="right"))
        return shard, line - (int(self._ends[shard - 1]) if shard else 0)

    def _sample(self, shard: int, row: int, fields: Row, epoch: int) -> Arrays:
        sample = sample_id(fields["key"])
        picture = self._picture(shard, row, fields, sample, epoch)
        arrays: Arrays = {"pixels": picture.pixels, "sample": np.int64(sample)}
        if self.stream.series:
            arrays |= self._series(shard, row, picture.pixels, sample, epoch)
        if self.labelled:
            return arrays
        derived = {name: self._column(shard, row, name) for name in self.columns}
        arrays["unmasked"] = Unmasked(sample, self.grid(picture.chosen), picture.view, derived)
        seen = Seen(picture, fields, epoch)
        return arrays | {
            f"targets.{target.kind}": self._target(target, seen, derived)
            for target in self.stream.targets
            if target.kind in STREAM_TARGETS
        }

    def _picture(self, shard: int, row: int, fields: Row, sample: int, epoch: int) -> Picture:
        """Return a stored picture or clip under the view that `sample` has in this epoch."""
        ready = self._ready.get(fields["key"])
        if ready is not None:
            return Picture(ready.pixels, ready.pixels, ready.pixels, ready.view)
        self._clock.lap("join")
        payload = self.members.payload(shard, row)
        self._clock.lap("read")
        where = f"{self.members.where(shard)}, sample {fields['key']}"
        picture = self.pictures.show(payload, fields, sample, epoch, where)
        self._clock.lap("decode")
        return picture

    def _series(
        self, shard: int, row: int, pixels: NDArray[Any], sample: int, epoch: int
    ) -> Arrays:
        """Return the pictures of a sample's place on several dates, and the dates."""
        rows, stream = self.rows[shard], self.stream
        if shard not in self._places:
            if len(self._places) == OPEN_SHARDS:
                self._places.pop(next(iter(self._places)))
            self._places[shard] = places_of(rows, stream.series, f"{stream.dataset}/{rows.shard}")
        places = self._places[shard]
        draws = generator(stream.seed, epoch, sample, "season")
        drawn = places.draw(row, stream.dates, draws)
        shown = {row: pixels}
        for other in drawn:
            if other not in shown:
                shown[other] = self._picture(shard, other, rows.row(other), sample, epoch).pixels
        axis = 1 if channels_first(rows.row(row)["ext"]) else 0
        pictures = np.stack([shown[other] for other in drawn], axis)
        self._repeated += len(shown) < len(drawn)
        return {"pixels": pictures, "dates": places.dates(drawn)}

    def _column(self, shard: int, row: int, name: str) -> NDArray[np.generic]:
        self._clock.lap("join")
        data = self.members.column(shard, row, name)
        self._clock.lap("read")
        return unpack_array(data)

    def grid(self, stored: NDArray[np.generic]) -> tuple[int, int, int]:
        """Return the token grid (t, h, w) of a sample."""
        edge = self.stream.view.size // self.stream.patch
        if self.stream.groups:
            return len(self.stream.groups), edge, edge
        if self.stream.series:
            return self.stream.dates, edge, edge
        return (len(stored) // self.stream.tubelet if stored.ndim == 4 else 1), edge, edge

    def _target(self, target: TargetConfig, seen: Seen, derived: Arrays) -> NDArray[np.float32]:
        """Return one target (N, P), read from its column or made on the spot."""
        if target.kind == "label":
            return label_target(seen.fields["label"], self.stream.classes)
        first, patch = channels_first(seen.fields["ext"]), self.stream.patch
        stored = derived[target.column] if target.source == "column" else None
        if target.kind == "ndi":
            return self._indices(seen, stored)
        ready = self._ready.get(seen.fields["key"])
        if stored is None and ready is not None and target.kind in ready.targets:
            return ready.targets[target.kind]
        if stored is None:
            pixels = np.ascontiguousarray(seen.picture.pixels)
            return target_from_pixels(
                pixels, target, patch, self.stream.tubelet, channels_first=first
            )
        frozen = stored[seen.epoch % self.stream.frozen_views]
        return uint8_to_hog(frozen) if target.column == "hog" else frozen.astype(np.float32)

    def _indices(self, seen: Seen, stored: NDArray[Any] | None) -> NDArray[np.float32]:
        """Return the normalised-difference indices of each patch under the view."""
        if stored is not None:
            maps = int16_to_ndi(stored)
        else:
            names = self.stream.columns.get("ndi", {}).get("names", tuple(INDICES))
            bands = json.loads(seen.fields["metadata"]).get("channels") or []
            maps = ndi(seen.picture.stored, bands, tuple(names))
        viewed = apply_view(maps, seen.picture.view, channels_first=True)
        return patch_values(viewed, self.stream.patch)
