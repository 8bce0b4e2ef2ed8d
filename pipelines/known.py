"""What a dataset has taken in already: so that an ingest takes only what is new."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import compute

from pipelines.listing import first_places
from storage.fs import Store
from storage.manifest import read_table
from storage.snapshots import PartEntry, Snapshot, part_path


@dataclass(frozen=True, slots=True)
class KnownInputs:
    """What the parts of a dataset have taken in."""

    files: pa.Array
    "`<uri>|<content hash>` of raw inputs with an outcome"
    refused: pa.Array
    "uri of those whose last outcome is a reject"
    units: pa.Table
    "content_hash and source of each unit that gave samples"

    def knows(self, inputs: pa.Table) -> pa.ChunkedArray:
        """Tell of each input (uri, content_hash) whether a part has it."""
        return compute.is_in(identity(inputs), value_set=self.files)

    def was_refused(self, inputs: pa.Table) -> pa.ChunkedArray:
        """Tell of each input whether it was refused when it came last."""
        return compute.is_in(inputs["uri"], value_set=self.refused)

    def sources_of(self, hashes: pa.Array) -> pa.Array:
        """Return where each content hash came from first; null for one that is new."""
        places = compute.index_in(hashes, value_set=self.units["content_hash"].combine_chunks())
        return self.units["source"].combine_chunks().take(places)


def identity(inputs: pa.Table) -> pa.ChunkedArray:
    """Return what makes an input the same as an earlier one: its place and its bytes."""
    return compute.binary_join_element_wise(inputs["uri"], inputs["content_hash"], "|")


def known_inputs(store: Store, snapshot: Snapshot | None) -> KnownInputs:
    """Read which raw inputs the parts of a snapshot have."""
    return known_in_parts(store, snapshot.dataset, snapshot.parts) if snapshot else _of([], [])


def known_in_parts(store: Store, dataset: str, parts: Iterable[PartEntry]) -> KnownInputs:
    """Read which raw inputs some parts have."""
    inputs, units = [], []
    for entry in parts:
        folder = part_path(dataset, entry.part)
        inputs.append(
            read_table(
                store,
                f"{folder}/inputs.parquet",
                entry.inputs_sha256,
                columns=["uri", "content_hash", "outcome"],
            )
        )
        units.append(
            read_table(
                store,
                f"{folder}/manifest.parquet",
                entry.manifest_sha256,
                columns=["content_hash", "source"],
            )
        )
    return _of(inputs, units)


def _of(inputs: list[pa.Table], units: list[pa.Table]) -> KnownInputs:
    text = pa.string()
    empty = pa.schema([("uri", text), ("content_hash", text), ("outcome", text)]).empty_table()
    every = pa.concat_tables([empty, *inputs]).combine_chunks()
    # The last outcome of a uri counts: a reject that was taken later is one no more.
    last = every.append_column("order", pa.array(range(len(every)), pa.int64()))
    newest = last.group_by("uri").aggregate([("order", "max")])["order_max"]
    final = every.take(newest)
    refused = final.filter(compute.equal(final["outcome"], "rejected"))["uri"]
    none = pa.schema([("content_hash", text), ("source", text)]).empty_table()
    samples = pa.concat_tables([none, *units]).combine_chunks()
    return KnownInputs(
        identity(every).combine_chunks(), refused.combine_chunks(), _first_of_units(samples)
    )


def _first_of_units(samples: pa.Table) -> pa.Table:
    """Return one row a unit: its samples follow each other in the manifest."""
    return samples.take(first_places(samples["content_hash"])) if len(samples) else samples
