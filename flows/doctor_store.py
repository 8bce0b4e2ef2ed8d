"""Of the store: whether it can be written, and whether what is in it is whole and up to date."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

from flows.doctor_machine import existing
from flows.findings import Examined, Finding, fault, fine, note
from storage.columns import ColumnError, ColumnSpec, list_columns, part_state
from storage.fs import Store, StoreError, open_store
from storage.snapshots import (
    Snapshot,
    SnapshotError,
    list_datasets,
    part_path,
    read_snapshot,
)
from storage.streaming import file_sha256
from storage.writers import removing

PROBE_BYTES = 2**20


def access(about: Examined) -> Iterator[Finding]:
    """Write a file into the store, read it back and remove it; a store that is missing stays so."""
    new = _not_made_yet(about.store)
    try:
        if new is not None:
            _probe(Store(str(existing(new))))
            yield fine("store", f"{about.store} is not made yet, and can be")
        else:
            _probe(open_store(about.store))
            yield fine("store", f"{about.store} can be read and written")
    except (StoreError, FileNotFoundError) as error:
        yield fault("store", str(error), _mend_access(about.store))


def _not_made_yet(store: str) -> Path | None:
    local = Store(store).local_path()
    return local if local is not None and not local.exists() else None


def _mend_access(store: str) -> str:
    if store.startswith("s3://"):
        return (
            "check that the endpoint is up, AWS_REGION, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, and that the bucket exists"
        )
    if "://" in store:
        return "check the address, the credentials and that the bucket or folder exists"
    return f"make {store} a folder that you own on a disk with free space, or give another --store"


def _probe(store: Store) -> None:
    path, data = f"doctor-{uuid.uuid4().hex[:8]}", bytes(PROBE_BYTES)
    try:
        store.write(path, data)
        if store.read(path) != data:
            raise StoreError(f"{store.uri}: gave back other bytes than were written")
    finally:
        store.delete(path)


def datasets(about: Examined) -> Iterator[Finding]:
    """Look at each dataset's snapshot, manifests, columns and unfinished parts."""
    if _not_made_yet(about.store) is not None:
        return
    try:
        store = open_store(about.store, writable=False)
        names = list_datasets(store)
    except StoreError:
        return  # `access` has said so
    for name in names:
        found = list(_dataset(store, name))
        yield from found or [fine("datasets", f"{name} is whole, its columns are up to date")]


def _dataset(store: Store, name: str) -> Iterator[Finding]:
    try:
        snapshot = read_snapshot(store, name)
    except SnapshotError as error:
        yield fault("datasets", str(error), "restore the file from a copy of the store")
        return
    if snapshot is None:
        return
    yield from _manifests(store, snapshot)
    yield from _unfinished(store, snapshot)
    try:
        for spec in list_columns(store, name):
            yield from _column(store, snapshot, spec)
    except ColumnError as error:
        yield fault("columns", str(error), f"headrace verify {name} --repair")


def _manifests(store: Store, snapshot: Snapshot) -> Iterator[Finding]:
    name = snapshot.dataset
    for entry in snapshot.parts:
        path = f"{part_path(name, entry.part)}/manifest.parquet"
        mend = f"headrace verify {name} --repair makes it again from the shards"
        try:
            if file_sha256(store, path) != entry.manifest_sha256:
                yield fault("manifests", f"{path} is damaged: its bytes are others", mend)
        except FileNotFoundError:
            yield fault("manifests", f"{path} is missing", mend)


def _unfinished(store: Store, snapshot: Snapshot) -> Iterator[Finding]:
    """Name parts that no snapshot names and nobody is writing."""
    named = {entry.part for entry in snapshot.parts}
    for part in store.folders(f"datasets/{snapshot.dataset}/parts"):
        folder = part_path(snapshot.dataset, part)
        if part in named:
            continue
        with removing(store, folder, None, dry=True) as free:
            if free:
                yield fault(
                    "unfinished parts",
                    f"{folder} was begun and not finished",
                    "run its 'headrace ingest' again: it takes up what is there; or "
                    "'headrace gc' removes it",
                )


def _column(store: Store, snapshot: Snapshot, spec: ColumnSpec) -> Iterator[Finding]:
    """Name a column that is of another version, or that lacks parts of the newest snapshot."""
    from pipelines.producers import PRODUCERS
    from pipelines.stream import column_arguments

    name, about = snapshot.dataset, f"{spec.column} of {snapshot.dataset} {spec.fingerprint[:8]}"
    mend = f"headrace derive {name} {spec.column} {column_arguments(spec)}".rstrip()
    lacking = [e.part for e in snapshot.parts if part_state(store, name, spec, e.part) == "missing"]
    producer = PRODUCERS.get(spec.column)
    if producer is None:
        yield note("columns", f"{about}: no producer of this headrace makes it", "update headrace")
    elif producer.version != spec.version:
        found = f"{about} is stale: made by version {spec.version}, now {producer.version}"
        yield fault("columns", found, mend)
    elif lacking:
        found = f"{about} is stale: {len(lacking)} of {len(snapshot.parts)} parts lack it"
        yield fault("columns", found, mend)
