"""The local feed: global batches of a run, in order, from positional reads of shards and sidecars.

The state of a stream is one integer, the global batch that comes next. Workers only compute
batches sooner; neither their number nor the number of ranks changes any batch.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pipelines.artefacts import resolve_all
from pipelines.audit import Audit
from pipelines.batch import About, Batch, BatchBuilder
from pipelines.catalog import open_snapshot
from pipelines.order import Order, default_lanes, remainder
from pipelines.rows import ShardRows, read_rows, shard_sizes
from pipelines.stalls import Stalls
from pipelines.stream import StreamConfig
from pipelines.worker import use_one_thread
from preprocessing.masks import MaskConfig
from preprocessing.statistics import Moments
from storage.fs import Store
from storage.snapshots import Snapshot

HELDOUT_EPOCH = 0
"Held-out batches are always drawn as of this epoch: fixed views and masks."
WORKER_SECONDS = 600
"Deadline for a batch from a worker."


Told = tuple[Batch, About]


class Source(Protocol):
    """What a feed passes on: batches and what is told about each, as often as it is asked."""

    def __iter__(self) -> Iterator[Told]: ...

    def __len__(self) -> int: ...


class _Batches(Dataset[Told]):
    """This rank's share of global batches, by their number."""

    def __init__(
        self, builder: BatchBuilder, order: Order, numbers: range, place: tuple[int, int]
    ) -> None:
        self.builder, self.order, self.numbers = builder, order, numbers
        self.rank, self.ranks = place

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Told:
        number = self.numbers[index]
        places = self.order.batch(number, rank=self.rank, ranks=self.ranks)
        return self.builder.build_told(places, self.order.epoch_of(number))


class _Chunks(Dataset[Told]):
    """All samples in stored order, cut into batches; the last one may be short."""

    def __init__(self, builder: BatchBuilder, places: list[tuple[int, int]], batch: int) -> None:
        self.builder, self.places, self.batch = builder, places, batch

    def __len__(self) -> int:
        return -(-len(self.places) // self.batch)

    def __getitem__(self, index: int) -> Told:
        chosen = self.places[index * self.batch : (index + 1) * self.batch]
        return self.builder.build_told(chosen, HELDOUT_EPOCH)


def _start_worker(_: int) -> None:
    use_one_thread()
    torch.set_num_threads(1)


class TooManyFailures(RuntimeError):
    """More samples failed than the stream allows."""


class Feed:
    """Batches of a stream, and what a run must record about them."""

    def __init__(self, source: Source, rows: list[ShardRows], **about: Any) -> None:
        self._source = source
        self.samples = int(shard_sizes(rows).sum())
        self.batches_per_epoch: int = about["batches_per_epoch"]
        self.remainder: int = about["remainder"]
        "samples that each epoch leaves out: fewer than a global batch"
        self.fingerprints: dict[str, Any] = about["fingerprints"]
        self.stats: dict[str, list[float]] = about["stats"]
        self.channels: list[str] = about["channels"]
        self.audit: Audit | None = about.get("audit")
        "the proofs of the epochs that this feed has finished"
        self.stalls = Stalls(about.get("workers", 0))
        self.failed: dict[str, str] = {}
        "key and error of each sample that failed and was replaced"
        self._failures: int = about.get("failures", 0)

    def __iter__(self) -> Iterator[Batch]:
        source, began = iter(self._source), time.perf_counter()
        while True:
            asked = time.perf_counter()
            told = next(source, None)
            if told is None:
                return
            batch, about = told
            came = time.perf_counter()
            self.stalls.add(asked, came, about.done, about.seconds)
            self.stalls.seconds = came - began
            self._count_failures(about)
            if self.audit is not None:
                self.audit.add(batch["sample"].numpy(), about.replaced)
            yield batch

    def _count_failures(self, about: About) -> None:
        self.failed.update(about.failed)
        if len(self.failed) > self._failures:
            key, error = next(reversed(self.failed.items()))
            raise TooManyFailures(
                f"{len(self.failed)} samples failed, data.failures allows {self._failures}; the "
                f"last was {key}: {error}"
            )

    def __len__(self) -> int:
        return len(self._source)

    def close(self) -> None:
        """Stop the workers, if any."""
        if isinstance(self._source, DataLoader):
            self._source._iterator = None


def _load(batches: Dataset[Told], workers: int) -> DataLoader[Told]:
    """Return a loader of whole batches, in order.

    Workers come from a fork server: a plain fork would copy the locks of OpenCV's and Arrow's
    threads, and hang.
    """
    multiprocessing.set_forkserver_preload(["pipelines.feed"])
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
        timeout=WORKER_SECONDS if workers else 0,
    )


def open_feed(
    store: Store,
    stream: StreamConfig,
    *,
    rank: int = 0,
    ranks: int = 1,
    start: int = 0,
    stop: int | None = None,
    workers: int = 0,
    kind: str = "local",
) -> Feed:
    """Open the batches [start, stop) of a stream for one rank.

    Args:
        start: the global batch to begin with, counted from the run's first; the state to resume
            from.
        stop: one past the last batch; None never ends.
        workers: processes that compute batches ahead; 0 computes them in this one.
        kind: local, or ray.

    Raises:
        FileNotFoundError: no such dataset or snapshot.
        StaleColumnError: a column is missing or does not fit.
        ValueError: too few samples for a batch, or ranks that do not divide the lanes.
    """
    snapshot, rows = _open_rows(store, stream, stream.split)
    order = Order(shard_sizes(rows), stream.order)
    order.batch(start, rank=rank, ranks=ranks)
    numbers = range(start, stop if stop is not None else 2**62)
    about = {
        **_about(store, snapshot, stream),
        "batches_per_epoch": order.batches_per_epoch,
        "remainder": remainder(order.samples, stream.order),
        "audit": Audit(order, rows, start, (rank, ranks)),
        "workers": workers,
        "failures": stream.failures,
    }
    builder = BatchBuilder(store.uri, stream, rows)
    if kind == "ray":
        from pipelines.ray_feed import RayStream

        stream_of_batches = RayStream(builder, order, numbers, (rank, ranks))
        return Feed(stream_of_batches, rows, **about)
    if kind != "local":
        raise ValueError(f"feed is {kind!r}; it must be local or ray.")
    return Feed(_load(_Batches(builder, order, numbers, (rank, ranks)), workers), rows, **about)


def open_heldout(store: Store, stream: StreamConfig, *, workers: int = 0) -> Feed | None:
    """Open all held-out samples, with fixed views and masks; None when the dataset has none."""
    heldout = replace(stream, split="heldout", lanes=default_lanes(stream.batch))
    snapshot, rows = _open_rows(store, heldout, "heldout")
    if not rows:
        return None
    return _in_stored_order(store, heldout, snapshot, rows, workers)


def open_eval(
    store: Store, stream: StreamConfig, *, split: str | None = None, workers: int = 0
) -> Feed:
    """Open all samples of a split (None: of the dataset) in stored order, with labels and keys.

    The stream's view should be the centre one; its masks and targets are left out.
    """
    plain = replace(stream, mask=MaskConfig(), targets=(), columns={}, frozen_views=0)
    snapshot, rows = _open_rows(store, plain, split)
    return _in_stored_order(store, plain, snapshot, rows, workers, labelled=True)


def _in_stored_order(
    store: Store,
    stream: StreamConfig,
    snapshot: Snapshot,
    rows: list[ShardRows],
    workers: int,
    labelled: bool = False,
) -> Feed:
    places = [(shard, row) for shard, entry in enumerate(rows) for row in range(len(entry.table))]
    builder = BatchBuilder(store.uri, stream, rows, labelled=labelled)
    chunks = _Chunks(builder, places, stream.batch)
    about = {**_about(store, snapshot, stream), "batches_per_epoch": len(chunks), "remainder": 0}
    return Feed(_load(chunks, workers), rows, **about)


def _open_rows(
    store: Store, stream: StreamConfig, split: str | None
) -> tuple[Snapshot, list[ShardRows]]:
    snapshot = open_snapshot(store, stream.dataset, stream.snapshot)
    return snapshot, read_rows(store, snapshot, split, stream.needed_columns(), stream.samples)


def _about(store: Store, snapshot: Snapshot, stream: StreamConfig) -> dict[str, Any]:
    moments = Moments.empty()
    for entry in snapshot.parts:
        moments = moments.merge(Moments.from_json(entry.stats["moments"]))
    return {
        "fingerprints": {
            "dataset": snapshot.dataset,
            "snapshot": snapshot.number,
            "fingerprint": snapshot.fingerprint,
            "columns": {
                name: resolve_all(store, snapshot.dataset, spec).fingerprint
                for name, spec in stream.needed_columns().items()
            },
        },
        "stats": {
            "mean": np.asarray(moments.mean(), dtype=np.float64).tolist(),
            "variance": np.asarray(moments.variance(), dtype=np.float64).tolist(),
        },
        "channels": list(snapshot.settings.get("channels", [])),
    }
