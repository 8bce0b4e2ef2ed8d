"""Rows become a batch: bytes read and verified, decoded, seen under a view, masked, joined with
targets.

Both feeds call `BatchBuilder.build` with the same places and epoch; every random choice is keyed
by (seed,
epoch, sample, purpose), so who calls it, and when, cannot change a batch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.column_codec import unpack_array
from pipelines.keys import sample_id
from pipelines.producers import VIEW_SEED, channels_first, spatial_shape
from pipelines.producers_motion import CELLS_PER_PATCH, seen_motion
from pipelines.rows import ShardRows, place_of
from pipelines.stream import STREAM_TARGETS, StreamConfig
from preprocessing.bits import unpack_mask
from preprocessing.errors import DecodeError
from preprocessing.hog import uint8_to_hog
from preprocessing.indices import INDICES, int16_to_ndi, ndi
from preprocessing.mask_random import Grid
from preprocessing.masks import decoded_tokens, make_mask
from preprocessing.payloads import decode_payload
from preprocessing.randomness import generator
from preprocessing.targets import TargetConfig, patch_values, target_from_pixels
from preprocessing.views import View, apply_view, draw_view
from storage.fs import Store
from storage.shards import ShardReader

Batch = dict[str, Any]
Arrays = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """A sample as a batch sees it: what its targets are made from."""

    stored: NDArray[Any]
    "all of it, decoded"
    pixels: NDArray[Any]
    "under the view"
    view: View
    fields: dict[str, Any]
    epoch: int


class BatchBuilder:
    """Builds batches of one stream; keeps the shards it reads open."""

    def __init__(
        self, store_uri: str, stream: StreamConfig, rows: list[ShardRows], *, labelled: bool = False
    ) -> None:
        self.store_uri, self.stream, self.rows, self.labelled = store_uri, stream, rows, labelled
        self.columns = stream.needed_columns()
        self._readers: dict[str, ShardReader] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}

    def build(self, places: list[tuple[int, int]], epoch: int) -> Batch:
        """Return the batch of the samples at `places` ((shard, row) pairs) as seen in `epoch`."""
        rows = [self._row(shard, row) for shard, row in places]
        samples = [
            self._sample(shard, row, fields, epoch)
            for (shard, row), fields in zip(places, rows, strict=True)
        ]
        batch: Batch = {
            name: torch.from_numpy(np.stack([sample[name] for sample in samples]))
            for name in samples[0]
        }
        if self.labelled:
            for name in ("label", "split", "key"):
                batch[name] = [row[name] for row in rows]
        return batch

    def _row(self, shard: int, row: int) -> dict[str, Any]:
        return self.rows[shard].table.slice(row, 1).to_pylist()[0]  # type: ignore[no-any-return]

    def _sample(self, shard: int, row: int, fields: dict[str, Any], epoch: int) -> Arrays:
        where = f"{self.stream.dataset}/{self.rows[shard].shard}, sample {fields['key']}"
        payload = self._read(f"{self.rows[shard].folder}/{self.rows[shard].shard}", fields, where)
        try:
            stored = decode_payload(fields["ext"], payload)
        except DecodeError as error:
            raise DecodeError(error.reason_class, f"{where}: {error.detail}") from error
        if stored.ndim == 4:
            stored = stored[:: self.stream.stride]
        sample = sample_id(fields["key"])
        view = self._view(spatial_shape(stored, fields["ext"]), sample, epoch)
        chosen = self._select_bands(stored, fields, where)
        pixels = apply_view(chosen, view, channels_first=channels_first(fields["ext"]))
        arrays: Arrays = {
            "pixels": to_channels_first(pixels, fields["ext"]),
            "sample": np.int64(sample),
        }
        if self.labelled:
            return arrays
        derived = {name: self._column(shard, row, name) for name in self.columns}
        arrays |= self._tokens(self.grid(chosen), derived, view, sample, epoch)
        seen = Seen(stored, pixels, view, fields, epoch)
        return arrays | {
            f"targets.{target.kind}": self._target(target, seen, derived)
            for target in self.stream.targets
            if target.kind in STREAM_TARGETS
        }

    def _read(self, path: str, fields: dict[str, Any], where: str) -> bytes:
        reader = self._readers.get(path)
        if reader is None:
            reader = self._readers[path] = ShardReader(Store(self.store_uri), path, where)
            while len(self._readers) > 64:
                self._readers.pop(next(iter(self._readers))).close()
        return reader.read(*place_of(fields), fields["key"])

    def _view(self, shape: tuple[int, int], sample: int, epoch: int) -> View:
        frozen = self.stream.frozen_views
        entropy = (VIEW_SEED, epoch % frozen) if frozen else (self.stream.seed, epoch)
        return draw_view(self.stream.view, *shape, generator(*entropy, sample, "view"))

    def _select_bands(
        self, stored: NDArray[np.generic], fields: dict[str, Any], where: str
    ) -> NDArray[np.generic]:
        wanted = self.stream.bands or tuple(name for group in self.stream.groups for name in group)
        if not wanted or not channels_first(fields["ext"]):
            return stored
        names = json.loads(fields["metadata"]).get("channels") or []
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ValueError(
                f"{where}: has the channels {names}, the recipe wants {', '.join(missing)} too. "
                "Change data.bands or model.groups, or ingest with --channels to name them."
            )
        return stored[[names.index(name) for name in wanted]]

    def _column(self, shard: int, row: int, name: str) -> NDArray[np.generic]:
        path, index = self.rows[shard].columns[name]
        fields = index.slice(row, 1).to_pylist()[0]
        return unpack_array(self._read(path, fields, f"{path}, sample {fields['key']}"))

    def grid(self, stored: NDArray[np.generic]) -> tuple[int, int, int]:
        """Return the token grid (t, h, w) of a sample."""
        edge = self.stream.view.size // self.stream.patch
        if self.stream.groups:
            return len(self.stream.groups), edge, edge
        return (len(stored) // self.stream.tubelet if stored.ndim == 4 else 1), edge, edge

    def _tokens(self, grid: Grid, derived: Arrays, view: View, sample: int, epoch: int) -> Arrays:
        """Return the index lists of visible, masked and decoded tokens."""
        config = self.stream.mask
        entropy = config.entropy(self.stream.seed, epoch)
        if config.made == "column":
            packed = derived["masks"][epoch % config.draws]
            mask = unpack_mask(packed, grid[0] * grid[1] * grid[2])
        else:
            seen: Arrays = {}
            for name in {"flow", "motion"} & set(derived):
                parameters = self.columns[name].parameters
                seen |= seen_motion(name, derived[name], parameters, view, grid)
            cell = self.stream.patch / CELLS_PER_PATCH
            mask = make_mask(config, grid, generator(*entropy, sample, "mask"), cell=cell, **seen)
        decoded = decoded_tokens(config, grid, mask, generator(*entropy, sample, "decoded"))
        return {
            "visible": np.flatnonzero(~mask),
            "masked": np.flatnonzero(mask),
            "decoded": np.flatnonzero(decoded),
        }

    def _target(self, target: TargetConfig, seen: Seen, derived: Arrays) -> NDArray[np.float32]:
        """Return one target (N, P), read from its column or made on the spot."""
        first, patch = channels_first(seen.fields["ext"]), self.stream.patch
        stored = derived[target.kind] if target.source == "column" else None
        if target.kind == "ndi":
            return self._indices(seen, stored)
        if stored is None:
            return target_from_pixels(
                seen.pixels, target, patch, self.stream.tubelet, channels_first=first
            )
        frozen = stored[seen.epoch % self.stream.frozen_views]
        return uint8_to_hog(frozen) if target.kind == "hog" else frozen.astype(np.float32)

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


def to_channels_first(pixels: NDArray[np.generic], ext: str) -> NDArray[np.generic]:
    """Return pixels as the trainer takes them: (C, H, W) or (C, T, H, W); uint8, or finite
    float32."""
    if channels_first(ext):
        array = pixels
    elif pixels.ndim == 4:
        array = pixels.transpose(3, 0, 1, 2)
    else:
        array = pixels.transpose(2, 0, 1)
    if array.dtype != np.uint8:
        array = np.nan_to_num(array.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    return np.ascontiguousarray(array)
