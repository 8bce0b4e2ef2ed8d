"""Rows become a batch: bytes read and verified, decoded, seen under a view, masked, joined with
targets.

Both feeds build with the same places and epoch; every random choice is keyed by (seed, epoch,
sample, purpose), so who calls it, and when, cannot change a batch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.cache import Cached, cache_of_environment
from pipelines.column_codec import unpack_array
from pipelines.keys import sample_id
from pipelines.memory import Blocks, SharedBlocks
from pipelines.producers import VIEW_SEED, channels_first, spatial_shape
from pipelines.rows import Row, ShardRows, place_of, shard_sizes
from pipelines.series import Places, places_of
from pipelines.stalls import Clock
from pipelines.stream import STREAM_TARGETS, StreamConfig
from pipelines.tokens import Unmasked, choose_tokens
from preprocessing.errors import DecodeError
from preprocessing.hog import uint8_to_hog
from preprocessing.indices import INDICES, band_numbers, int16_to_ndi, ndi
from preprocessing.jpeg import view_reduced
from preprocessing.jpeg_region import decode_region
from preprocessing.payloads import decode_payload
from preprocessing.randomness import borrowed, generator
from preprocessing.targets import (
    TargetConfig,
    label_target,
    patch_values,
    target_from_pixels,
)
from preprocessing.views import View, apply_view, draw_view
from storage.fs import Store
from storage.shards import ShardError, ShardReader

Batch = dict[str, Any]
Arrays = dict[str, Any]
Place = tuple[int, int]
Picture = tuple[NDArray[Any], NDArray[Any], NDArray[Any], View]
"What is stored, the bands of it that are seen, these under the view, and the view."
OPEN_SHARDS = 64
"How many shards a process keeps open; of a cache, as many are in use."


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


@dataclass(frozen=True, slots=True)
class Seen:
    """A sample as a batch sees it: what its targets are made from."""

    stored: NDArray[Any]
    "decoded: all of it where a target needs it, else the bands that are seen"
    pixels: NDArray[Any]
    "under the view"
    view: View
    fields: Mapping[str, Any]
    epoch: int


class BatchBuilder:
    """Builds batches of one stream; keeps the shards it reads open."""

    def __init__(
        self, store_uri: str, stream: StreamConfig, rows: list[ShardRows], *, labelled: bool = False
    ) -> None:
        self.store_uri, self.stream, self.rows, self.labelled = store_uri, stream, rows, labelled
        self.columns = stream.needed_columns()
        self.cache = cache_of_environment()
        self._readers: dict[str, ShardReader] = {}
        self._cached: dict[str, Cached] = {}
        self._ends = np.cumsum(shard_sizes(rows))
        self._places: dict[int, Places] = {}
        self._clock = Clock()
        self._failed: list[tuple[str, str]] = []
        self._substitutes = self._repeated = 0
        self.device = torch.device("cpu")
        "where masks are warped"
        self.blocks: Blocks | SharedBlocks = Blocks()
        "where the pixels of batches are written"
        self._seen = np.empty((0, 0, 3), np.uint8)
        "pixels of the last picture, written over by the next"

    def __getstate__(self) -> dict[str, Any]:
        own = {"_readers": {}, "_cached": {}, "blocks": Blocks(), "_seen": self._seen[:0]}
        return {**self.__dict__, **own}

    def build(self, places: list[Place], epoch: int) -> Batch:
        """Return the batch of the samples at `places` ((shard, row) pairs) as seen in `epoch`."""
        return self.build_told(places, epoch)[0]

    def build_told(self, places: list[Place], epoch: int) -> Told:
        """Return a batch and what is to be told about it: seconds by stage, samples that failed.

        Raises:
            ShardError, DecodeError: a sample is damaged, and the stream allows no failures.
        """
        self._clock, self._failed = Clock(), []
        self._substitutes = self._repeated = 0
        pixels, samples, rows = Pixels(len(places), self.blocks), [], []
        unmasked: list[Unmasked] = []
        for place in places:
            arrays, fields = self._replaced(place, epoch)
            pixels.put(len(samples), arrays.pop("pixels"), fields["ext"])
            if not self.labelled:
                unmasked.append(arrays.pop("unmasked"))
            samples.append(arrays)
            rows.append(fields)
        self._clock.lap("join")
        if not self.labelled:
            tokens = choose_tokens(self.stream, self.columns, unmasked, epoch, self.device)
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
        return batch, About(
            seconds=self._clock.seconds,
            failed=self._failed,
            replaced=self._substitutes,
            done=time.perf_counter(),
            repeated=self._repeated,
            block=self.blocks.taken,
        )

    def payloads(self, places: list[Place]) -> list[tuple[str, bytes]]:
        """Return (extension, bytes) of the samples at `places`, verified, not decoded."""
        found = []
        for shard, row in places:
            entry, fields = self.rows[shard], self.rows[shard].row(row)
            where = f"{self.stream.dataset}/{entry.shard}, sample {fields['key']}"
            data = self._read(f"{entry.folder}/{entry.shard}", fields, where)
            found.append((fields["ext"], data))
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
        stored, chosen, pixels, view = self._picture(shard, fields, sample, epoch)
        arrays: Arrays = {"pixels": pixels, "sample": np.int64(sample)}
        if self.stream.series:
            arrays |= self._series(shard, row, pixels, sample, epoch)
        if self.labelled:
            return arrays
        derived = {name: self._column(shard, row, name) for name in self.columns}
        arrays["unmasked"] = Unmasked(sample, self.grid(chosen), view, derived)
        seen = Seen(stored, pixels, view, fields, epoch)
        return arrays | {
            f"targets.{target.kind}": self._target(target, seen, derived)
            for target in self.stream.targets
            if target.kind in STREAM_TARGETS
        }

    def _picture(self, shard: int, fields: Row, sample: int, epoch: int) -> Picture:
        """Return a stored picture or clip under the view that `sample` has in this epoch."""
        where = f"{self.stream.dataset}/{self.rows[shard].shard}, sample {fields['key']}"
        self._clock.lap("join")
        payload = self._read(f"{self.rows[shard].folder}/{self.rows[shard].shard}", fields, where)
        jpeg = fields["ext"] == "jpg"
        view = self._view(tuple(fields["shape"][:2]), sample, epoch) if jpeg else None
        pixels = self._box(payload, view) if view is not None else None
        if pixels is None:
            stored, chosen = self._decoded(payload, fields, where)
            view = view or self._view(spatial_shape(chosen, fields["ext"]), sample, epoch)
            pixels = apply_view(chosen, view, channels_first=channels_first(fields["ext"]))
        else:
            stored = chosen = pixels
        self._clock.lap("decode")
        return stored, chosen, pixels, view

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
                shown[other] = self._picture(shard, rows.row(other), sample, epoch)[2]
        axis = 1 if channels_first(rows.row(row)["ext"]) else 0
        pictures = np.stack([shown[other] for other in drawn], axis)
        self._repeated += len(shown) < len(drawn)
        return {"pixels": pictures, "dates": places.dates(drawn)}

    def _read(self, path: str, fields: Mapping[str, Any], where: str) -> bytes:
        reader = self._reader(path, where)
        reader.where, before = where, reader.verifying
        try:
            data = reader.read(*place_of(fields), fields["key"])
        except ShardError:
            if path not in self._cached:
                raise
            data = self._reader_again(path, where).read(*place_of(fields), fields["key"])
            before = 0.0
        self._clock.lap("read")
        self._clock.move(self._readers[path].verifying - before, "read", "verify")
        return data

    def _reader(self, path: str, where: str) -> ShardReader:
        """Return a reader of a shard; of a remote one, through the cache if there is one."""
        reader = self._readers.get(path)
        if reader is not None:
            return reader
        while len(self._readers) >= OPEN_SHARDS:
            self._close(next(iter(self._readers)))
        store = Store(self.store_uri)
        if self.cache is not None and store.local_path(path) is None:
            found = self.cache.fetch(store, path)
            if found is not None:
                self._cached[path] = found
                here = Store(str(found.path.parent))
                self._readers[path] = ShardReader(here, found.path.name, where)
                return self._readers[path]
        self._readers[path] = ShardReader(store, path, where)
        return self._readers[path]

    def _reader_again(self, path: str, where: str) -> ShardReader:
        """Return a reader of the store's own file, after the cache's copy proved damaged."""
        self._close(path)
        if self.cache is not None:
            self.cache.forget(Store(self.store_uri), path)
        self._readers[path] = ShardReader(Store(self.store_uri), path, where)
        return self._readers[path]

    def _close(self, path: str) -> None:
        self._readers.pop(path).close()
        if path in self._cached:
            self._cached.pop(path).close()

    def _decoded(
        self, payload: bytes, fields: Mapping[str, Any], where: str
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return what is stored, as far as this stream reads it, and the bands that are seen."""
        names = self._bands(fields, where)
        everything = names is None or any(t.kind == "ndi" for t in self.stream.targets)
        try:
            stored = decode_payload(fields["ext"], payload, None if everything else names)
        except DecodeError as error:
            raise DecodeError(error.reason_class, f"{where}: {error.detail}") from error
        if stored.ndim == 4:
            stored = stored[:: self.stream.stride]
        return stored, stored if names is None or not everything else stored[names]

    def _box(self, payload: bytes, view: View) -> NDArray[np.uint8] | None:
        """Return what a view shows of a JPEG without decoding it whole; None where that fails.

        What is returned is written over by the next call.
        """
        # Stored targets were made from whole pictures, and so must be what they are held against.
        # A box worth reducing has 4 size^2 pixels; fewer bytes than a quarter of that are none.
        if len(payload) >= view.size**2 and not self.stream.frozen_views:
            reduced = view_reduced(payload, view)
            if reduced is not None:
                return reduced
        region = decode_region(payload, view)
        if region is None:
            return None
        if self._seen.shape[0] != view.size:
            self._seen = np.empty((view.size, view.size, 3), np.uint8)
        here = View(0, 0, view.height, view.width, view.size, view.flip)
        return apply_view(region, here, out=None if self.stream.series else self._seen)

    def _view(self, shape: tuple[int, int], sample: int, epoch: int) -> View:
        frozen = self.stream.frozen_views
        entropy = (VIEW_SEED, epoch % frozen) if frozen else (self.stream.seed, epoch)
        return draw_view(self.stream.view, *shape, borrowed(*entropy, sample, "view"))

    def _bands(self, fields: Mapping[str, Any], where: str) -> list[int] | None:
        """Return the numbers of the channels that are asked for; None takes all."""
        wanted = self.stream.bands or tuple(name for group in self.stream.groups for name in group)
        if not wanted or not channels_first(fields["ext"]):
            return None
        names = json.loads(fields["metadata"]).get("channels") or []
        try:
            return band_numbers(names, wanted)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def _column(self, shard: int, row: int, name: str) -> NDArray[np.generic]:
        path, fields = self.rows[shard].columns[name][0], self.rows[shard].column_row(name, row)
        return unpack_array(self._read(path, fields, f"{path}, sample {fields['key']}"))

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
        if stored is None:
            return target_from_pixels(
                seen.pixels, target, patch, self.stream.tubelet, channels_first=first
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
            maps = ndi(seen.stored, bands, tuple(names))
        viewed = apply_view(maps, seen.view, channels_first=True)
        return patch_values(viewed, self.stream.patch)


class Pixels:
    """The pixels of a batch, each sample written where it belongs."""

    def __init__(self, samples: int, blocks: Blocks | SharedBlocks) -> None:
        self.samples, self.blocks = samples, blocks
        self.tensor = torch.empty(0)
        self._array: NDArray[Any] | None = None

    def put(self, number: int, pixels: NDArray[Any], ext: str) -> None:
        """Write a sample's pixels, channels first.

        Raises:
            ValueError: they have another shape than those before.
        """
        first = _channels_first(pixels, ext)
        if self._array is None:
            dtype = torch.uint8 if pixels.dtype == np.uint8 else torch.float32
            self.tensor = self.blocks.take((self.samples, *first.shape), dtype)
            self._array = self.tensor.numpy()
        if first.shape != self._array.shape[1:]:
            raise ValueError(
                f"batch: sample {number} has the shape {first.shape}, those before "
                f"{self._array.shape[1:]}. One batch holds samples of one shape; choose data.bands."
            )
        target = self._array[number]
        if pixels.dtype == np.uint8 and pixels.ndim == 3 and first is not pixels:
            cv2.split(pixels, list(target))  # a fifth of the time of numpy's transposed copy
        else:
            target[...] = first
        if target.dtype != np.uint8:
            np.nan_to_num(target, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def _channels_first(pixels: NDArray[Any], ext: str) -> NDArray[Any]:
    """Return pixels as (C, H, W) or (C, T, H, W), without a copy."""
    if channels_first(ext):
        return pixels
    return pixels.transpose(3, 0, 1, 2) if pixels.ndim == 4 else pixels.transpose(2, 0, 1)
