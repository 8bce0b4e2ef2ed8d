"""Columns of a dataset: what is missing is computed shard by shard, what is there is told and left
alone.

A part of a column exists when its `index.parquet` does; that is written after all of its sidecar
shards, each of which was written whole with its own record. Two derives of one column write the
same bytes, so they cannot harm each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipelines.artefacts import provide, resolve_all, with_input
from pipelines.catalog import open_snapshot
from pipelines.executors import Executor, run_jobs
from pipelines.plan import Progress
from pipelines.producers import PRODUCERS, column_spec, needed_by
from pipelines.sidecars import SidecarJob, check_tables, record_path, write_sidecar
from storage.columns import ColumnSpec, column_path, list_columns, part_state, write_column_spec
from storage.fs import Store
from storage.manifest import INDEX_SCHEMA, TableWriter
from storage.snapshots import PartEntry, Snapshot
from storage.writers import writing


def derive(
    store: Store,
    dataset: str,
    columns: Mapping[str, dict[str, Any]],
    executor: Executor,
    *,
    progress: Progress | None = None,
    artefacts: Mapping[str, bytes] | None = None,
) -> dict[str, dict[str, Any]]:
    """Compute the missing parts of columns, and of those that they are made from.

    Args:
        columns: the parameters asked of each column; what is not named has the producer's default.
        artefacts: for columns that look through weights, their bytes, where they are no file.

    Returns:
        For each column: fingerprint, parameters, computed and reused (samples), seconds (CPU),
        bytes, workers; under "flow for masks" what was made for another column.

    Raises:
        FileNotFoundError: no such dataset.
        ValueError: an unknown column or parameter, or a column that this modality cannot have.
    """
    snapshot = open_snapshot(store, dataset)
    specs = {name: column_spec(name, parameters) for name, parameters in columns.items()}
    for spec in specs.values():
        check_modality(snapshot, spec)
    results: dict[str, dict[str, Any]] = {}
    for name, spec in specs.items():
        for source in needed_by(spec).values():
            found = provide(store, snapshot, source)
            made = _derive_column(store, snapshot, found, executor, progress)
            if made["computed"] or source.column not in columns:
                results[f"{source.column} for {name}"] = made
            spec = with_input(spec, found)
        spec = provide(store, snapshot, spec, (artefacts or {}).get(name))
        results[name] = _derive_column(store, snapshot, spec, executor, progress)
    return results


def check_modality(snapshot: Snapshot, spec: ColumnSpec) -> None:
    """Refuse a column that samples of this kind cannot have, or that is made from such a one.

    Raises:
        ValueError: with the columns that they can have.
    """
    modality = str(snapshot.settings["modality"])
    for name in (spec.column, *needed_by(spec)):
        able = PRODUCERS[name].modalities
        if modality not in able:
            others = [column for column, p in PRODUCERS.items() if modality in p.modalities]
            source = "" if name == spec.column else f"it is made from {name}, and "
            raise ValueError(
                f"derive {spec.column} of {snapshot.dataset}: {source}{name} needs "
                f"{' or '.join(able)} samples, {snapshot.dataset} holds {modality} samples. "
                f"Columns for these: {', '.join(others)}."
            )


def _derive_column(
    store: Store,
    snapshot: Snapshot,
    spec: ColumnSpec,
    executor: Executor,
    progress: Progress | None,
) -> dict[str, Any]:
    missing = [
        p for p in snapshot.parts if part_state(store, snapshot.dataset, spec, p.part) == "missing"
    ]
    done = {p.part for p in snapshot.parts} - {p.part for p in missing}
    result = {
        "fingerprint": spec.fingerprint,
        "parameters": spec.parameters,
        "computed": 0,
        "reused": sum(p.samples for p in snapshot.parts if p.part in done),
        "seconds": 0.0,
        "bytes": 0,
        "workers": [],
    }
    if not missing:
        return result
    write_column_spec(store, snapshot.dataset, spec)
    above = column_path(snapshot.dataset, spec.column, spec.fingerprint)
    for entry in missing:
        with writing(store, f"{above}/{entry.part}"):  # gc must not take its records for dead
            _derive_part(store, snapshot.dataset, entry, spec, executor, result, progress)
    result["seconds"] = round(result["seconds"], 3)
    return result


def _derive_part(
    store: Store,
    dataset: str,
    entry: PartEntry,
    spec: ColumnSpec,
    executor: Executor,
    result: dict[str, Any],
    progress: Progress | None,
) -> None:
    folder = f"{column_path(dataset, spec.column, spec.fingerprint)}/{entry.part}"
    store.delete_abandoned(folder)
    jobs = [
        SidecarJob(
            store.uri,
            dataset,
            entry.part,
            entry.manifest_sha256,
            shard["name"],
            position,
            spec,
        )
        for position, shard in enumerate(entry.shards)
    ]
    if jobs:
        check_tables(store, jobs[0])
    for done, (_, record, process) in enumerate(run_jobs(write_sidecar, jobs, executor), 1):
        result["computed"] += record["computed"]
        result["reused"] += record["samples"] - record["computed"]
        result["seconds"] += record["seconds"]
        result["bytes"] += record["bytes"]
        result["workers"] = sorted({*result["workers"], process})
        if progress:
            progress(f"derive {spec.column}", done, len(jobs))
    index = TableWriter(INDEX_SCHEMA)
    for job in jobs:
        record = json.loads(store.read(record_path(folder, job.shard)))
        index.add(
            dict(zip(INDEX_SCHEMA.names, (key, job.position, row, *place), strict=True))
            for row, (key, *place) in enumerate(record["rows"])
        )
    index.write(store, f"{folder}/index.parquet", of=spec.fingerprint)


def why(
    store: Store, dataset: str, column: str, parameters: dict[str, Any]
) -> list[dict[str, Any]]:
    """Explain, a line a part, whether a column with these parameters is there, and if not what
    differs.

    Raises:
        FileNotFoundError: no such dataset.
        ValueError: an unknown column or parameter, or a column that this modality cannot have.
    """
    snapshot = open_snapshot(store, dataset)
    wanted = column_spec(column, parameters)
    check_modality(snapshot, wanted)
    wanted = resolve_all(store, dataset, wanted)
    others = [spec for spec in list_columns(store, dataset) if spec.column == column]
    lines = []
    for entry in snapshot.parts:
        state = part_state(store, dataset, wanted, entry.part)
        there = [s for s in others if part_state(store, dataset, s, entry.part) == "complete"]
        reason = "complete" if state == "complete" else _differences(wanted, there)
        lines.append({"part": entry.part, "state": state, "reason": reason})
    return lines


def _differences(wanted: ColumnSpec, others: Sequence[ColumnSpec]) -> str:
    if not others:
        return f"no column {wanted.column} was derived for this part"
    return "; ".join(f"{other.fingerprint[:8]} has {difference(wanted, other)}" for other in others)


def difference(wanted: ColumnSpec, other: ColumnSpec) -> str:
    """Say in words how another column differs from the wanted one."""
    left, right = asdict(wanted), asdict(other)
    words = [
        f"{name} {right[name]!r}, wanted {left[name]!r}"
        for name in ("producer", "version")
        if left[name] != right[name]
    ]
    asked, there = _flat(wanted.parameters), _flat(other.parameters)
    words += [
        f"{name} {there.get(name)!r}, wanted {asked.get(name)!r}"
        for name in sorted({*asked, *there})
        if asked.get(name) != there.get(name)
    ]
    return ", ".join(words) or "the same settings"


def _flat(parameters: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return parameters with those inside of others named by dots: view.size."""
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        inside = isinstance(value, dict)
        flat |= _flat(value, f"{above}{name}.") if inside else {f"{above}{name}": value}
    return flat
