"""What a store holds: datasets with their columns, rejects and samples."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

import pyarrow as pa

from storage.columns import column_path, list_columns, part_state
from storage.fs import Store
from storage.manifest import read_table
from storage.snapshots import Snapshot, list_datasets, part_path, read_snapshot
from storage.streaming import TableFile, file_sha256

_COUNTED = {"written": "written", "duplicate": "duplicates", "rejected": "rejects"}
"outcomes of raw files, and the totals of a snapshot that count them"


def open_snapshot(store: Store, dataset: str, number: int | None = None) -> Snapshot:
    """Return a snapshot of a dataset that must exist.

    Raises:
        FileNotFoundError: there is none.
    """
    snapshot = read_snapshot(store, dataset, number)
    if snapshot is None:
        wanted = f"snapshot {number} of dataset {dataset!r}" if number else f"dataset {dataset!r}"
        raise FileNotFoundError(
            f"{store.uri}: holds no {wanted}. See 'headrace ls', or make it with "
            f"'headrace ingest SOURCE --modality … --dataset {dataset}'."
        )
    return snapshot


def describe_dataset(store: Store, dataset: str) -> dict[str, Any]:
    """Return counts, sizes, splits and columns of the last snapshot of a dataset."""
    snapshot = open_snapshot(store, dataset)
    totals = {
        name: sum(getattr(entry, name) for entry in snapshot.parts)
        for name in ("samples", "bytes", "inputs", "written", "duplicates", "rejects")
    }
    if totals["rejects"] and len(snapshot.parts) > 1:  # some may have been taken later
        for outcomes in _outcomes_of_rejected(store, dataset).values():
            for earlier in outcomes[:-1]:
                totals["inputs"] -= 1
                totals[_COUNTED[earlier]] -= 1
    splits, groups = Counter[str](), Counter[str]()
    for entry in snapshot.parts:
        splits.update(entry.stats["splits"])
        groups.update(entry.stats["groups"])
    return {
        "dataset": dataset,
        "modality": snapshot.settings["modality"],
        "snapshot": snapshot.number,
        "fingerprint": snapshot.fingerprint,
        "parts": len(snapshot.parts),
        "shards": sum(len(entry.shards) for entry in snapshot.parts),
        **totals,
        "splits": dict(splits),
        "groups": dict(groups),
        "columns": _describe_columns(store, dataset, [entry.part for entry in snapshot.parts]),
    }


def _describe_columns(store: Store, dataset: str, parts: list[str]) -> list[dict[str, Any]]:
    described = []
    for spec in list_columns(store, dataset):
        folder = column_path(dataset, spec.column, spec.fingerprint)
        complete = [p for p in parts if part_state(store, dataset, spec, p) == "complete"]
        described.append(
            {
                "column": spec.column,
                "fingerprint": spec.fingerprint,
                "version": spec.version,
                "parameters": spec.parameters,
                "bound": spec.bound,
                "parts": f"{len(complete)} of {len(parts)}",
                "bytes": sum(e.size for e in store.list(folder) if e.path.endswith(".tar")),
            }
        )
    return described


def list_store(store: Store) -> dict[str, Any]:
    """Return every dataset and run of a store."""
    runs = store.folders("runs")
    return {
        "datasets": [describe_dataset(store, name) for name in list_datasets(store)],
        "runs": [describe_run(store, name) for name in runs],
    }


def describe_run(store: Store, run: str) -> dict[str, Any]:
    """Return the summary of a run.

    Raises:
        FileNotFoundError: no such run.
    """
    if not store.exists(f"runs/{run}/run.json"):
        raise FileNotFoundError(f"{store.uri}: holds no run {run!r}. See 'headrace ls'.")
    described: dict[str, Any] = {"run": run, **json.loads(store.read(f"runs/{run}/run.json"))}
    if store.exists(f"runs/{run}/summary.json"):
        described["summary"] = json.loads(store.read(f"runs/{run}/summary.json"))
    described["probes"] = [
        json.loads(store.read(entry.path))
        for entry in store.list(f"runs/{run}/probes")
        if entry.path.endswith(".json")
    ]
    return described


def read_rejects(store: Store, dataset: str) -> list[dict[str, Any]]:
    """Return every raw file that the parts of a dataset refused, with its reason."""
    snapshot = open_snapshot(store, dataset)
    return [
        row
        for entry in snapshot.parts
        for row in read_table(
            store, f"{part_path(dataset, entry.part)}/rejects.parquet", entry.rejects_sha256
        ).to_pylist()
    ]


def read_outcomes(store: Store, dataset: str) -> list[dict[str, str]]:
    """Return what became of every raw file: uri, content_hash, outcome (written, duplicate or
    rejected), detail and part. A file that came again has the outcome of the last time."""
    snapshot = open_snapshot(store, dataset)
    last: dict[str, dict[str, str]] = {}
    for entry in snapshot.parts:
        path = f"{part_path(dataset, entry.part)}/inputs.parquet"
        for row in read_table(store, path).to_pylist():
            last[row["uri"]] = {**row, "part": entry.part}
    return list(last.values())


def standing_rejects(store: Store, dataset: str) -> list[dict[str, Any]]:
    """Return the raw files that are refused still: a reject that was taken later is left out."""
    found = _outcomes_of_rejected(store, dataset)
    last = {row["uri"]: row for row in read_rejects(store, dataset)}
    return [row for uri, row in last.items() if found[uri][-1] == "rejected"]


def _outcomes_of_rejected(store: Store, dataset: str) -> dict[str, list[str]]:
    """Return, of each file that was ever refused, what became of it each time, the last time last.

    Tables of inputs have a row a file: all rows are looked at, few become Python objects.
    """
    from pyarrow import compute  # feeds import this module, and do without

    refused = pa.array(sorted({row["uri"] for row in read_rejects(store, dataset)}), pa.string())
    found: dict[str, list[str]] = defaultdict(list)
    for entry in open_snapshot(store, dataset).parts:
        table = read_table(store, f"{part_path(dataset, entry.part)}/inputs.parquet")
        table = table.filter(compute.is_in(table["uri"], value_set=refused))
        rows = zip(table["uri"].to_pylist(), table["outcome"].to_pylist(), strict=True)
        for uri, outcome in rows:
            found[uri].append(outcome)
    return found


def read_samples(store: Store, dataset: str, count: int) -> list[dict[str, Any]]:
    """Return the manifest rows of the first samples of a dataset."""
    snapshot = open_snapshot(store, dataset)
    rows: list[dict[str, Any]] = []
    for entry in snapshot.parts:
        if len(rows) < count:
            path = f"{part_path(dataset, entry.part)}/manifest.parquet"
            if file_sha256(store, path) != entry.manifest_sha256:
                read_table(store, path, entry.manifest_sha256)  # tells what is wrong
            with TableFile(store, path) as table:
                for group in table.groups():
                    rows += group.slice(0, count - len(rows)).to_pylist()
                    if len(rows) >= count:
                        break
    return rows
