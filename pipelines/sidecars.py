"""One sidecar shard of a column: read the samples and what they need, compute, write, record."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.artefacts import read_artefact, stored_of
from pipelines.column_codec import EXT, pack_array, unpack_array
from pipelines.column_types import Array, Stored
from pipelines.producers import PRODUCERS, needed_by
from preprocessing.errors import DecodeError
from storage.columns import ColumnSpec, column_path
from storage.fingerprint import canonical_json
from storage.fs import Store
from storage.manifest import INDEX_SCHEMA, MANIFEST_SCHEMA, ManifestError, read_table
from storage.shards import ShardReader, pack_sidecar
from storage.snapshots import part_path
from storage.streaming import TableFile, file_sha256


@dataclass(frozen=True, slots=True)
class SidecarJob:
    """One sidecar shard to write."""

    store: str
    dataset: str
    part: str
    manifest_sha256: str
    shard: str
    position: int
    "of the shard in the part, which is what the manifest calls it"
    spec: ColumnSpec


def write_sidecar(job: SidecarJob) -> dict[str, Any]:
    """Compute one sidecar shard, write it and then its record; a shard with a record is left
    alone.

    Returns:
        bytes and samples of the sidecar, and what this call did: seconds (CPU), computed (samples).

    Raises:
        ValueError: a sample from which the column cannot be made, named.
    """
    store = Store(job.store)
    folder = f"{column_path(job.dataset, job.spec.column, job.spec.fingerprint)}/{job.part}"
    record_at = record_path(folder, job.shard)
    if store.exists(record_at):
        return {**_sizes(json.loads(store.read(record_at))), "seconds": 0.0, "computed": 0}
    began = time.process_time()
    items = [(key, pack_array(array)) for key, array in compute_shard(store, job)]
    data, places = pack_sidecar(job.spec.column, EXT, items)
    record = sidecar_record(job.spec, data, places)
    store.write(f"{folder}/{job.shard}", data)
    store.write(record_at, canonical_json(record))
    return {**_sizes(record), "seconds": time.process_time() - began, "computed": len(items)}


def _sizes(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without its rows: nobody holds those of all shards at once."""
    return {name: record[name] for name in ("bytes", "samples")}


def record_path(folder: str, shard: str) -> str:
    """Return the path of the record of a sidecar in the folder of its part."""
    return f"{folder}/records/{shard.removesuffix('.tar')}.json"


def check_tables(store: Store, job: SidecarJob) -> None:
    """Check the tables that the jobs of a part read, once for all: the manifest, and the index of
    each column that is needed. A job then reads the rows of its own shard alone.

    Raises:
        ManifestError: one is missing or damaged.
    """
    path = f"{part_path(job.dataset, job.part)}/manifest.parquet"
    try:
        sound = file_sha256(store, path) == job.manifest_sha256
    except FileNotFoundError:
        sound = False
    if not sound:
        read_table(store, path, job.manifest_sha256)  # tells what is wrong
    for spec in needed_by(job.spec).values():
        with TableFile(store, f"{_input_folder(job, spec)}/index.parquet") as index:
            index.check()
            if index.of != spec.fingerprint:
                raise ManifestError(
                    f"{index.path}: belongs to {index.of[:16] or 'nothing'}, not to "
                    f"{spec.fingerprint[:16]}. It was moved; restore it, or make it again."
                )


def sidecar_record(
    spec: ColumnSpec, data: bytes, places: list[tuple[str, int, int, int]]
) -> dict[str, Any]:
    """Return what is kept of a sidecar: its rows, and which column it is of."""
    return {
        "column": asdict(spec),
        "rows": [list(place) for place in places],
        "bytes": len(data),
        "samples": len(places),
    }


def compute_shard(
    store: Store, job: SidecarJob, limit: int | None = None
) -> Iterator[tuple[str, Array]]:
    """Yield (key, array) of the samples of a shard, in order; of the first `limit` ones if given.

    Raises:
        ValueError: a sample from which the column cannot be made, named.
    """
    keys: list[str] = []

    def told(samples: Iterator[tuple[str, Stored]]) -> Iterator[Stored]:
        for key, stored in samples:
            keys.append(key)
            yield stored

    artefact = read_artefact(store, job.dataset, job.spec)
    make = PRODUCERS[job.spec.producer].make
    with ExitStack() as stack:
        samples = read_samples(store, job, stack, limit)
        try:
            arrays = make(told(samples), job.spec.parameters, artefact)
            for number, array in enumerate(arrays):
                yield keys[number], array
        except (ValueError, DecodeError) as error:
            where = f"{job.dataset}/{job.shard}, sample {keys[-1] if keys else '(none)'}"
            raise ValueError(f"derive {job.spec.column} of {where}: {error}") from error


def read_samples(
    store: Store, job: SidecarJob, stack: ExitStack, limit: int | None = None
) -> Iterator[tuple[str, Stored]]:
    """Yield (key, stored sample) of a shard's rows, verified, with the columns they need; the
    tables of the part must have been checked."""
    folder = part_path(job.dataset, job.part)
    with TableFile(store, f"{folder}/manifest.parquet") as manifest:
        rows = manifest.rows_of_shard(job.position, MANIFEST_SCHEMA.names)
    where = f"{job.dataset}/{job.part}/{job.shard}"
    base = stack.enter_context(ShardReader(store, f"{folder}/{job.shard}", where))
    inputs = {
        name: _open_input(store, job, spec, stack) for name, spec in needed_by(job.spec).items()
    }
    for number, row in enumerate(rows.slice(0, limit).to_pylist()):
        arrays = {
            name: unpack_array(_read(reader, index[number], row["key"]))
            for name, (reader, index) in inputs.items()
        }
        yield row["key"], stored_of(row, _read(base, row, row["key"]), **arrays)


def _input_folder(job: SidecarJob, spec: ColumnSpec) -> str:
    """Return where the same part of another column lies."""
    return f"{column_path(job.dataset, spec.column, spec.fingerprint)}/{job.part}"


def _open_input(
    store: Store, job: SidecarJob, spec: ColumnSpec, stack: ExitStack
) -> tuple[ShardReader, list[dict[str, Any]]]:
    """Return the reader of a needed column's sidecar, and its rows of this shard."""
    folder = _input_folder(job, spec)
    with TableFile(store, f"{folder}/index.parquet") as index:
        rows = index.rows_of_shard(job.position, INDEX_SCHEMA.names).to_pylist()
    reader = ShardReader(store, f"{folder}/{job.shard}", f"{folder}/{job.shard}")
    return stack.enter_context(reader), rows


def _read(reader: ShardReader, row: dict[str, Any], key: str) -> bytes:
    if row["key"] != key:
        raise ValueError(
            f"the column it is made from has {row['key']} where {key} is due. "
            "Remove that column's folder and derive it again."
        )
    return reader.read(row["offset"], row["size"], row["checksum"], key)
