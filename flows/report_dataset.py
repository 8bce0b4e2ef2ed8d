"""What a report shows of a dataset: books, sizes, splits, causes of rejects, columns and costs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import compute

from flows.report_columns import column_section
from flows.report_parts import (
    Books,
    DatasetSection,
    RejectCause,
    Table,
)
from flows.report_samples import choose, composites, thumbnails
from pipelines.catalog import describe_dataset, open_snapshot, standing_rejects
from pipelines.ledger import ledger_of
from preprocessing.statistics import ByChannels, apart_from_json, merge_apart, most_common
from storage.columns import list_columns
from storage.fs import Store
from storage.manifest import read_table
from storage.snapshots import Snapshot, part_path

THUMBNAILS, EXAMPLES, SIZES, SHOWN_FILES, LABELS = 16, 2, 8, 5, 30


def dataset_section(store: Store, name: str) -> DatasetSection:
    """Return what a report shows of a dataset."""
    snapshot, described = open_snapshot(store, name), describe_dataset(store, name)
    shown = choose(store, snapshot, THUMBNAILS)
    abouts = {column["fingerprint"]: column for column in described["columns"]}
    moving = sorted(shown, key=lambda sample: -sample.row["score"])[:EXAMPLES]
    return DatasetSection(
        name=name,
        **{
            key: described[key]
            for key in (
                "modality",
                "snapshot",
                "fingerprint",
                "parts",
                "shards",
                "samples",
                "bytes",
            )
        },
        books=Books(
            **{key: described[key] for key in ("inputs", "written", "duplicates", "rejects")}
        ),
        reject_causes=_causes(store, name),
        splits={
            shown: described["splits"].get(split, 0)
            for split, shown in (("train", "to train on"), ("heldout", "held out"))
        },
        labels=_labels(snapshot),
        sizes=_sizes(snapshot),
        duplicates=_duplicates(store, snapshot),
        **_held_apart(store, snapshot),
        statistics=_statistics(snapshot),
        thumbnails=thumbnails(shown),
        composites=composites(shown[:EXAMPLES]),
        columns=tuple(
            column_section(store, name, spec, abouts[spec.fingerprint], moving)
            for spec in list_columns(store, name)
        ),
        ledger=_data_work(store, name),
    )


def _data_work(store: Store, dataset: str) -> Table | None:
    """Return what ingest and columns cost, and what later runs did not have to spend."""
    lines = ledger_of(store, dataset=dataset)["columns"]
    rows = tuple(
        (
            f"{line['column']} {line['fingerprint'][:8]}",
            round(line["seconds"], 2),
            round(line["bytes"] / 2**20, 2),
            line["runs"],
            round(line["saved"], 2),
        )
        for line in lines
    )
    heads = ("data work", "seconds", "MiB", "runs", "seconds saved by reuse")
    return Table(heads=heads, rows=rows) if rows else None


def _causes(store: Store, name: str) -> tuple[RejectCause, ...]:
    rejects = standing_rejects(store, name)
    counts = Counter(reject["reason_class"] for reject in rejects)
    return tuple(
        RejectCause(
            reason=reason,
            count=count,
            examples=tuple(
                (Path(r["uri"]).name, r["detail"]) for r in rejects if r["reason_class"] == reason
            )[:3],
        )
        for reason, count in counts.most_common()
    )


def _labels(snapshot: Snapshot) -> dict[str, int]:
    total: Counter[str] = Counter()
    for entry in snapshot.parts:
        total.update(entry.stats["labels"])
    del total[""]
    if len(total) <= LABELS:
        return dict(sorted(total.items()))
    shown = dict(total.most_common(LABELS))
    return {**shown, f"{len(total) - LABELS} more labels": total.total() - sum(shown.values())}


def _sizes(snapshot: Snapshot) -> Table:
    """Return the commonest shapes of samples, and how many have another."""
    total: Counter[str] = Counter()
    for entry in snapshot.parts:
        total.update(entry.stats["shapes"])
    rows = total.most_common(SIZES)
    other = total.total() - sum(count for _, count in rows)
    rows += [(f"{len(total) - SIZES} others", other)] if other else []
    return Table(heads=("shape", "samples"), rows=tuple(rows))


def _duplicates(store: Store, snapshot: Snapshot) -> tuple[tuple[str, str], ...]:
    """Return a few raw files whose content came before, each with what it repeats."""
    found: list[tuple[str, str]] = []
    for entry in snapshot.parts:
        path = f"{part_path(snapshot.dataset, entry.part)}/inputs.parquet"
        columns = ["uri", "outcome", "detail"]
        rows = read_table(store, path, entry.inputs_sha256, columns) if entry.duplicates else None
        if rows is not None:
            again = rows.filter(compute.equal(rows["outcome"], "duplicate")).slice(0, SHOWN_FILES)
            found += [(Path(r["uri"]).name, r["detail"]) for r in again.to_pylist()]
    return tuple(found[:SHOWN_FILES])


def _held_apart(store: Store, snapshot: Snapshot) -> dict[str, Any]:
    """Return whether what is held out is kept from training: by groups and by content."""
    split: dict[str, list[pa.Table]] = {"train": [], "heldout": []}
    for entry in snapshot.parts:
        path = f"{part_path(snapshot.dataset, entry.part)}/manifest.parquet"
        columns = ["group", "split", "content_hash"]
        rows = read_table(store, path, entry.manifest_sha256, columns)
        for name, tables in split.items():
            tables.append(rows.filter(compute.equal(rows["split"], name)))
    train, heldout = (pa.concat_tables(tables) for tables in split.values())
    both = {
        name: sum(compute.is_in(_values(train, name), value_set=_values(heldout, name)).to_pylist())
        for name in ("group", "content_hash")
    }
    groups = len(_values(train, "group")), len(_values(heldout, "group"))
    if not len(heldout):
        told = "nothing is held out, so runs have no held-out loss: ingest with a larger --heldout."
        return {"leaks": told, "leaking": None}
    told = (
        f"{len(train):,} samples of {groups[0]:,} groups to train on, {len(heldout):,} of "
        f"{groups[1]:,} held out; on both sides: {both['group']} groups, "
        f"{both['content_hash']} raw contents."
    )
    return {"leaks": told, "leaking": any(both.values())}


def _values(table: pa.Table, column: str) -> pa.Array:
    return compute.unique(table[column])


def _statistics(snapshot: Snapshot) -> Table:
    found: ByChannels = {}
    for entry in snapshot.parts:
        found = merge_apart(found, apart_from_json(entry.stats["moments"]))
    moments = most_common(found)
    names = snapshot.settings.get("channels") or [str(c) for c in range(len(moments.mean()))]
    deviations = [max(value, 0.0) ** 0.5 for value in moments.variance()]
    rows = tuple(zip(names, moments.mean(), deviations, strict=False))
    return Table(
        heads=("channel", "mean", "standard deviation"),
        rows=rows,
        caption="over all valid pixels, exact",
    )
