"""The rows that a stream reads: the samples of a split with the places of their payloads and
columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.artefacts import resolve_all
from pipelines.filters import fitting
from pipelines.keys import sample_id
from pipelines.stream import column_arguments
from pipelines.values import Texts, Values, values_of
from storage.columns import ColumnSpec, column_path, list_columns, part_state
from storage.fs import Store
from storage.manifest import read_table
from storage.snapshots import Snapshot, part_path

_NEEDED = [
    "key",
    "shard",
    "row",
    "ext",
    "offset",
    "size",
    "checksum",
    "split",
    "label",
    "metadata",
    "shape",
    "score",
]


class StaleColumnError(ValueError):
    """A column that a stream needs is missing, or differs from what it asks for (G6)."""


@dataclass(slots=True)
class ShardRows:
    """The samples of one shard that belong to the stream's split."""

    folder: str
    "path of the part"
    shard: str
    table: pa.Table
    "manifest rows of the split"
    columns: dict[str, tuple[str, pa.Table]]
    "for each column: the path of its sidecar and the index rows, aligned with `table`"
    _values: dict[str, dict[str, Values]] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Other processes look at their own tables."""
        return ShardRows, (self.folder, self.shard, self.table, self.columns)

    def row(self, number: int) -> Row:
        """Return the manifest row of a sample."""
        return Row(self.values(), number)

    def values(self) -> Mapping[str, Values]:
        """Return the columns of the manifest, by their names."""
        values = self._values.get("")
        return self._values_of("", self.table) if values is None else values

    def column_row(self, name: str, number: int) -> Row:
        """Return the index row of a sample in a column."""
        return Row(self._values_of(name, self.columns[name][1]), number)

    def _values_of(self, name: str, table: pa.Table) -> dict[str, Values]:
        """Return the columns of a table; asking the table for each takes longer than the read."""
        values = self._values.get(name)
        if values is None:
            whole = table.combine_chunks()
            values = {n: values_of(whole[n].chunk(0)) for n in table.column_names}
            self._values[name] = values
        return values


class Row(Mapping[str, Any]):
    """One row of a table; a value becomes a Python object when it is asked for."""

    __slots__ = ("_number", "_values")

    def __init__(self, values: Mapping[str, Values], number: int) -> None:
        self._values, self._number = values, number

    def __getitem__(self, name: str) -> Any:
        return self._values[name][self._number]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def read_rows(
    store: Store,
    snapshot: Snapshot,
    split: str | None,
    columns: Mapping[str, ColumnSpec],
    limit: int = 0,
    where: Mapping[str, Any] | None = None,
) -> list[ShardRows]:
    """Return the shards of a snapshot that hold samples of a split, in manifest order.

    Args:
        split: train or heldout; None takes all.
        limit: keep only this many samples, the same ones each time: those with the smallest ids; 0
            keeps all.
        where: conditions on the samples; see `pipelines.filters`.

    Raises:
        StaleColumnError: a part lacks a column, or has it only with other settings.
        ValueError: no sample fits the conditions.
    """
    columns = {n: resolve_all(store, snapshot.dataset, spec) for n, spec in columns.items()}
    folders = [part_path(snapshot.dataset, entry.part) for entry in snapshot.parts]
    manifests = [
        read_table(store, f"{folder}/manifest.parquet", entry.manifest_sha256, columns=_NEEDED)
        for folder, entry in zip(folders, snapshot.parts, strict=True)
    ]
    chosen = [_chosen(manifest, split, where or {}) for manifest in manifests]
    if where and not any(map(len, chosen)):
        raise ValueError(
            f"data.where: none of the {sum(map(len, manifests))} samples of {snapshot.dataset} "
            f"fits {dict(where)}. Loosen a condition; 'headrace ls {snapshot.dataset} --samples 5 "
            "--json' shows what samples say."
        )
    kept = _limited(manifests, chosen, limit)
    found = []
    for entry, folder, manifest, keep in zip(snapshot.parts, folders, manifests, kept, strict=True):
        indexes = {
            name: _read_index(store, snapshot, entry.part, spec, manifest)
            for name, spec in columns.items()
        }
        for number, rows in _by_shard(_numbers(manifest["shard"])[keep], keep):
            shard = entry.shards[number]["name"]
            found.append(
                ShardRows(
                    folder,
                    shard,
                    _taken(manifest, rows),
                    {
                        name: (f"{index_folder}/{shard}", _taken(index, rows))
                        for name, (index_folder, index) in indexes.items()
                    },
                )
            )
    return found


def _numbers(values: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Return numbers without nulls; `to_numpy` would import pandas, which takes 0.1 to 0.3 s."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if isinstance(array, pa.ChunkedArray):  # no chunk at all
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    bits = f"{'u' if 'uint' in str(array.type) else 'i'}{array.type.bit_width // 8}"
    return np.frombuffer(array.buffers()[1] or b"", bits)[array.offset : array.offset + len(array)]


def _equal(texts: pa.StringArray, wanted: bytes) -> NDArray[np.bool_]:
    """Return where a text is `wanted`; `pyarrow.compute` would take 4 MB more than this."""
    _, bounds, content = texts.buffers()
    if bounds is None or content is None:
        return np.zeros(len(texts), bool)
    ends = np.frombuffer(bounds, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    same = np.diff(ends) == len(wanted)
    begins, data = ends[:-1][same], np.frombuffer(content, np.uint8)
    matches = [data[begins + place] == byte for place, byte in enumerate(wanted)]
    same[same] = np.logical_and.reduce(matches)
    return same


def _taken(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Return rows of a table, given ascending; a run of them is not copied."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return table.slice(int(rows[0]), len(rows))
    # pa.array(rows) would import pandas, only to find that these are none of its.
    numbers = pa.py_buffer(np.ascontiguousarray(rows, np.int64))
    return table.take(pa.Array.from_buffers(pa.int64(), len(rows), [None, numbers]))


def _chosen(manifest: pa.Table, split: str | None, where: Mapping[str, Any]) -> NDArray[np.int64]:
    """Return the numbers of the rows of a split that fit the conditions."""
    rows = np.arange(len(manifest))
    if split is not None:
        same = [_equal(chunk, split.encode()) for chunk in manifest["split"].chunks]
        rows = np.flatnonzero(np.concatenate(same)) if same else rows[:0]
    return rows[fitting(_taken(manifest, rows), where)] if where else rows


def _by_shard(
    shards: NDArray[np.int64], rows: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each shard's number and its rows, ascending; `np.unique` would import masked arrays."""
    order = np.argsort(shards, kind="stable")
    shards, rows = shards[order], rows[order]
    begins = np.flatnonzero(np.diff(shards, prepend=-1))
    for begin, end in zip(begins, np.append(begins, len(rows))[1:], strict=True):
        yield int(shards[begin]), rows[begin:end]


def _limited(
    manifests: Sequence[pa.Table], kept: list[NDArray[np.int64]], limit: int
) -> list[NDArray[np.int64]]:
    """Keep the `limit` samples with the smallest ids: a choice that does not depend on parts or
    shards."""
    if not limit or sum(map(len, kept)) <= limit:
        return kept
    ids = [
        np.array(
            [sample_id(key) for key in _taken(manifest, keep)["key"].to_pylist()], dtype=np.int64
        )
        for manifest, keep in zip(manifests, kept, strict=True)
    ]
    last = np.partition(np.concatenate(ids), limit - 1)[limit - 1]
    return [keep[mine <= last] for keep, mine in zip(kept, ids, strict=True)]


def shard_sizes(rows: list[ShardRows]) -> NDArray[np.int64]:
    """Return the samples of each shard."""
    return np.array([len(shard.table) for shard in rows], dtype=np.int64)


def sample_ids(rows: Sequence[ShardRows], places: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """Return the ids of the samples at (shard, row) pairs."""
    found = ((rows[shard].values()["key"], row) for shard, row in places)
    return np.array(
        [sample_id(keys.raw(row) if type(keys) is Texts else keys[row]) for keys, row in found],
        np.int64,
    )


def _read_index(
    store: Store, snapshot: Snapshot, part: str, spec: ColumnSpec, manifest: pa.Table
) -> tuple[str, pa.Table]:
    if part_state(store, snapshot.dataset, spec, part) != "complete":
        raise StaleColumnError(_refusal(store, snapshot.dataset, part, spec))
    folder = f"{column_path(snapshot.dataset, spec.column, spec.fingerprint)}/{part}"
    index = read_table(store, f"{folder}/index.parquet", of=spec.fingerprint)
    if not index["key"].equals(manifest["key"]):
        raise StaleColumnError(
            f"column {spec.column} of {snapshot.dataset}, part {part}: its keys are not those of "
            "the part. "
            f"Remove {folder} and derive it again with 'headrace derive {snapshot.dataset} "
            f"{spec.column} …'."
        )
    return folder, index


def _refusal(store: Store, dataset: str, part: str, spec: ColumnSpec) -> str:
    from pipelines.derive import difference  # all of ingest, for a refusal

    others = [
        other
        for other in list_columns(store, dataset)
        if other.column == spec.column and part_state(store, dataset, other, part) == "complete"
    ]
    command = f"headrace derive {dataset} {spec.column} {column_arguments(spec)}"
    if not others:
        return f"column {spec.column} of {dataset}, part {part}: not derived. Run '{command}'."
    found = "; ".join(difference(spec, other) for other in others)
    return (
        f"column {spec.column} of {dataset}, part {part}: found {found}. It does not fit this run. "
        f"Derive the right one with '{command}', or change the recipe."
    )


def place_of(row: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return (offset, size, checksum) of a manifest or index row."""
    return row["offset"], row["size"], row["checksum"]
