"""Every byte of a dataset against its manifests: what is damaged is named by shard and sample."""

from __future__ import annotations

from typing import Any

from pipelines.catalog import open_snapshot
from pipelines.plan import Progress
from pipelines.rows import place_of
from storage.columns import ColumnError, column_path, list_columns, part_state
from storage.fingerprint import sha256_hex
from storage.fs import Store
from storage.manifest import ManifestError, read_table
from storage.shards import ShardError, ShardReader
from storage.snapshots import PartEntry, part_path


def verify(store: Store, dataset: str, *, progress: Progress | None = None) -> dict[str, Any]:
    """Check manifests, shards, every member and every column of a dataset.

    Returns:
        samples (checked), damaged (a list of {where, sample, detail}) and repaired (empty).

    Raises:
        FileNotFoundError: no such dataset.
        SnapshotError: the snapshot itself is damaged.
    """
    snapshot = open_snapshot(store, dataset)
    damaged: list[dict[str, str]] = []
    samples = 0
    total = sum(len(entry.shards) for entry in snapshot.parts)
    done = 0
    for entry in snapshot.parts:
        tables = _check_tables(store, dataset, entry, damaged)
        rows = tables.to_pylist() if tables is not None else []
        samples += len(rows)
        for shard in entry.shards:
            number = int(shard["name"].removeprefix("shard-").removesuffix(".tar"))
            mine = [row for row in rows if row["shard"] == number]
            _check_shard(store, dataset, entry, shard, mine, damaged)
            done += 1
            if progress:
                progress("verify shards", done, total)
        _check_columns(store, dataset, entry, [row["key"] for row in rows], damaged)
    return {"samples": samples, "damaged": damaged, "repaired": []}


def _check_tables(
    store: Store, dataset: str, entry: PartEntry, damaged: list[dict[str, str]]
) -> Any:
    folder = part_path(dataset, entry.part)
    manifest = None
    digests = {"manifest": entry.manifest_sha256, "rejects": entry.rejects_sha256, "inputs": None}
    for name, digest in digests.items():
        path = f"{folder}/{name}.parquet"
        try:
            table = read_table(store, path, digest)
            manifest = table if name == "manifest" else manifest
        except (ManifestError, FileNotFoundError) as error:
            damaged.append({"where": path, "sample": "", "detail": str(error)})
    if manifest is not None and len(manifest) != entry.samples:
        detail = f"holds {len(manifest)} rows, the snapshot says {entry.samples}"
        damaged.append({"where": f"{folder}/manifest.parquet", "sample": "", "detail": detail})
    return manifest


def _check_shard(
    store: Store,
    dataset: str,
    entry: PartEntry,
    shard: dict[str, Any],
    rows: list[dict[str, Any]],
    damaged: list[dict[str, str]],
) -> None:
    """Hash the whole tar; where it differs, read it member by member to name the samples."""
    path = f"{part_path(dataset, entry.part)}/{shard['name']}"
    if not store.exists(path):
        damaged.append(
            {"where": path, "sample": "", "detail": f"is missing, with {len(rows)} samples"}
        )
        return
    if sha256_hex(store.read(path)) == shard["sha256"]:
        return
    before = len(damaged)
    members = [
        (tuple(row[f"{prefix}{name}"] for name in ("offset", "size", "checksum")), row["key"])
        for row in rows
        for prefix in ("", "meta_")
    ]
    _check_members(store, path, members, damaged)
    if len(damaged) == before:
        detail = "its bytes differ outside of the samples' members (headers or padding)"
        damaged.append({"where": path, "sample": "", "detail": detail})


def _check_members(
    store: Store,
    path: str,
    members: list[tuple[tuple[int, ...], str]],
    damaged: list[dict[str, str]],
) -> None:
    """Read the members ((offset, size, checksum), key) of a tar and name the damaged ones."""
    try:
        reader = ShardReader(store, path, path)
    except (ShardError, OSError) as error:
        damaged.append({"where": path, "sample": "", "detail": str(error)})
        return
    with reader:
        for (offset, size, expected), key in members:
            try:
                reader.read(offset, size, expected, key)
            except (ShardError, OSError) as error:
                damaged.append({"where": path, "sample": key, "detail": str(error)})


def _check_columns(
    store: Store, dataset: str, entry: PartEntry, keys: list[str], damaged: list[dict[str, str]]
) -> None:
    try:
        specs = list_columns(store, dataset)
    except ColumnError as error:
        damaged.append({"where": f"columns of {dataset}", "sample": "", "detail": str(error)})
        return
    for spec in specs:
        if part_state(store, dataset, spec, entry.part) != "complete":
            continue
        folder = f"{column_path(dataset, spec.column, spec.fingerprint)}/{entry.part}"
        try:
            rows = read_table(store, f"{folder}/index.parquet").to_pylist()
        except ManifestError as error:
            damaged.append({"where": f"{folder}/index.parquet", "sample": "", "detail": str(error)})
            continue
        if [row["key"] for row in rows] != keys:
            detail = (
                f"its index holds {len(rows)} keys that are not the part's {len(keys)}, in order"
            )
            damaged.append({"where": f"{folder}/index.parquet", "sample": "", "detail": detail})
        for shard in entry.shards:
            number = int(shard["name"].removeprefix("shard-").removesuffix(".tar"))
            members = [(place_of(row), row["key"]) for row in rows if row["shard"] == number]
            _check_members(store, f"{folder}/{shard['name']}", members, damaged)
