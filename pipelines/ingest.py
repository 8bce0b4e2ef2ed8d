"""Raw files to a new part and snapshot: planned, written chunk by chunk, committed last.

The plan is a function of the inputs alone, so a killed ingest finds its finished chunks by their
records and ends in the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pipelines.books import Books, close_books, write_tables
from pipelines.chunks import ShardJob, write_chunk
from pipelines.executors import Executor, run_jobs
from pipelines.ingest_spec import IngestSpec
from pipelines.known import known_in_parts
from pipelines.plan import IngestPlan, Progress, plan_ingest
from storage.fs import Store
from storage.snapshots import (
    PartEntry,
    Snapshot,
    SnapshotMoved,
    commit_part,
    part_path,
    snapshots_path,
)
from storage.writers import removing, writing

__all__ = ["ShardJob", "ingest", "write_chunk"]

THREADED_BYTES, THREADED_WORKERS = 512 * 2**20, 4
ATTEMPTS = 20
"Times that an ingest is planned again because another one took the same content first."


def ingest(
    store: Store,
    sources: Sequence[str],
    dataset: str,
    spec: IngestSpec,
    executor: Executor,
    *,
    retry_rejects: bool = False,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Turn raw files into a new part and snapshot of a dataset.

    Returns:
        dataset, snapshot, fingerprint, inputs, written, samples, duplicates, rejects, skipped,
        shards, bytes, reasons (rejects by class), splits, workers (ids of the processes that wrote
        shards) and reused (chunks found complete from an earlier, interrupted ingest).

    Raises:
        BooksError: inputs are not written + duplicates + rejects + skipped.
    """
    for _ in range(ATTEMPTS):
        plan = plan_ingest(
            store, sources, dataset, spec, executor, retry_rejects=retry_rejects, progress=progress
        )
        report = _carry_out(store, plan, executor, progress)
        if report is not None:
            return report
    raise RuntimeError(
        f"{dataset}: other ingests took the same files first, {ATTEMPTS} times. "
        "Run the command again; nothing is lost."
    )


def _carry_out(
    store: Store, plan: IngestPlan, executor: Executor, progress: Progress | None
) -> dict[str, object] | None:
    """Write and commit what was planned; None if another ingest took the same content first."""
    store.delete_abandoned(snapshots_path(plan.dataset))  # of one killed as it committed
    if not len(plan.files):
        return _report(plan, Books(plan.inputs, plan.skipped), plan.base, {})
    part = part_path(plan.dataset, plan.part)
    with writing(store, part):
        store.delete_abandoned(part)
        done = _write_chunks(store, plan, executor, progress)
        store.settle(part, f"{part}/records")  # names that one who was killed had given
        entry, books = write_tables(store, plan)
        nothing = not books.samples and not books.duplicates and plan.retry
        snapshot = None if nothing else _commit(store, plan, entry, books)
    if snapshot is not None:
        return _report(plan, books, snapshot, done)
    with removing(store, part, None) as free:  # a twin of this ingest may still write it
        if free:
            store.delete_tree(part)
    return _report(plan, books, plan.base, done) if nothing else None


class _Jobs:
    """The chunks of a plan as jobs, each made when it is asked for."""

    def __init__(self, store: Store, plan: IngestPlan) -> None:
        self.store, self.plan = store, plan

    def __len__(self) -> int:
        return self.plan.chunks

    def __iter__(self) -> Iterator[ShardJob]:
        plan = self.plan
        for chunk in range(plan.chunks):
            yield ShardJob(
                self.store.uri,
                part_path(plan.dataset, plan.part),
                chunk,
                plan.chunk(chunk),
                plan.spec,
                plan.heldout_below,
                plan.spec.overflow_bytes(plan.shard_bytes),
            )


def _write_chunks(
    store: Store, plan: IngestPlan, executor: Executor, progress: Progress | None
) -> dict[str, Any]:
    """Run the jobs; returns the processes that worked and how many chunks were there already."""
    workers, reused = set(), 0
    jobs = _Jobs(store, plan)
    where = _where(plan, executor)
    for done, (_, result, process) in enumerate(run_jobs(write_chunk, jobs, where), 1):
        workers.add(process)
        reused += result["reused"]
        if progress:
            progress("write shards", done, len(jobs))
    return {"workers": sorted(workers), "reused": reused}


def _where(plan: IngestPlan, executor: Executor) -> Executor:
    """Return the executor, threads in place of a few processes that would start for a second and
    work for less: a codec of images leaves Python's lock."""
    small = plan.spec.modality == "image" and plan.chunks * plan.shard_bytes < THREADED_BYTES
    if executor.kind == "direct" and 1 < executor.workers <= THREADED_WORKERS and small:
        return replace(executor, kind="threads")
    return executor


def _commit(store: Store, plan: IngestPlan, entry: PartEntry, books: Books) -> Snapshot | None:
    """Commit the part; None if a part that came since has some of its content, or other settings
    hold now."""
    settings = {
        "heldout_below": str(plan.heldout_below),
        "modality": plan.spec.modality,
        "channels": books.statistics.common_channels(),
    }
    try:
        return commit_part(
            store, plan.dataset, entry, settings, lambda newest: _goes_with(store, plan, newest)
        )
    except SnapshotMoved:
        return None


def _goes_with(store: Store, plan: IngestPlan, newest: Snapshot) -> bool:
    """Tell whether a plan is still right after parts that were committed since it was made."""
    if newest.settings["heldout_below"] != str(plan.heldout_below):
        return False
    if newest.settings["modality"] != plan.spec.modality:
        return False
    planned = {entry.part for entry in plan.base.parts} if plan.base else set()
    added = [entry for entry in newest.parts if entry.part not in planned]
    taken = known_in_parts(store, plan.dataset, added).units["content_hash"].to_pylist()
    return set(taken).isdisjoint(
        unit.content_hash
        for chunk in range(plan.chunks if taken else 0)
        for unit in plan.chunk(chunk)
    )


def _report(
    plan: IngestPlan, books: Books, snapshot: Snapshot | None, done: dict[str, Any]
) -> dict[str, object]:
    close_books(books, plan.dataset)
    return {
        **books.summary(),
        "dataset": plan.dataset,
        "snapshot": snapshot.number if snapshot else 0,
        "fingerprint": snapshot.fingerprint if snapshot else "",
        "workers": done.get("workers", []),
        "reused": done.get("reused", 0),
    }
