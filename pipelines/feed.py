"""The feed: global batches of a run, in order, from positional reads of shards and sidecars.

The state of a stream is one integer, the global batch that comes next. Workers only compute
batches sooner; neither their number nor the number of ranks changes any batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Protocol

import numpy as np
import torch

import storage.allocator  # noqa: F401  # before Arrow
from pipelines.artefacts import resolve_all
from pipelines.audit import Proof
from pipelines.batch import About, Batch, BatchBuilder, Told
from pipelines.cache import Ahead
from pipelines.catalog import open_snapshot
from pipelines.local_feed import Batches, Chunks, Loaded, WorkerStream, received
from pipelines.mixture import Course, Turns
from pipelines.order import Order, default_lanes, remainder
from pipelines.rows import ShardRows, read_rows, shard_sizes
from pipelines.stalls import Stalls
from pipelines.stored import StoredBuilder, ThreadStream, as_stored
from pipelines.stream import StreamConfig
from preprocessing.masks import MaskConfig
from preprocessing.statistics import ByChannels, apart_from_json, merge_apart, most_common
from storage.fingerprint import fingerprint
from storage.fs import Store
from storage.snapshots import Snapshot


class Source(Protocol):
    """What a feed passes on: batches and what is told about each, as often as it is asked."""

    def __iter__(self) -> Iterator[Told]: ...

    def __len__(self) -> int: ...

    def close(self) -> None: ...


class TooManyFailures(RuntimeError):
    """More samples failed than the stream allows."""


class Feed:
    """Batches of a stream, or of a mixture, and what a run must record about them."""

    def __init__(self, source: Source, rows: list[ShardRows], **about: Any) -> None:
        self._source = source
        self.samples = int(shard_sizes(rows).sum())
        self.batches_per_epoch: int = about["batches_per_epoch"]
        self.remainder: int = about["remainder"]
        "samples that each epoch leaves out: fewer than a global batch"
        self.fingerprints: dict[str, Any] = about["fingerprints"]
        self.stats: dict[str, list[float]] = about["stats"]
        self.channels: list[str] = about["channels"]
        self._ahead: Ahead | None = None
        self.stalls = Stalls(about.get("workers", 0))
        self.failed: dict[str, str] = {}
        "key and error of each sample that failed and was replaced"
        self._failures: int = about.get("failures", 0)
        self.course: Course | None = about.get("course")
        "what each batch is made of; None where samples come in stored order"
        self._start: int = about.get("start", 0)
        self.audits = self.course.audits(self._start) if self.course else []
        "of each stream, with the proofs of the epochs that this loop has finished"

    @property
    def proofs(self) -> list[Proof]:
        """The proofs of finished epochs, stream by stream."""
        return [proof for audit in self.audits for proof in audit.proofs]

    def __iter__(self) -> Iterator[Batch]:
        self._fetch_ahead()
        self.audits = self.course.audits(self._start) if self.course else []
        source, began = iter(self._source), time.perf_counter() - self.stalls.seconds
        for number in count(self._start):
            asked = time.perf_counter()
            told = next(source, None)
            if told is None:
                return
            batch, about = told
            told = None  # else its memory is in use until the next one has come
            batch = received(batch)
            came = time.perf_counter()
            self.stalls.add(asked, came, about.done, about.seconds)
            self.stalls.seconds = came - began
            self._count_failures(about)
            if self.course is not None:
                stream, _ = self.course.turns.locate(number)
                ids = batch["sample"].numpy()
                self.audits[stream].add(ids, about.replaced, about.repeated)
                if len(self.audits) > 1:
                    batch["stream"] = torch.tensor(stream)
            yield batch
            del batch

    def _fetch_ahead(self) -> None:
        """Begin to download the remote shards of the next epoch's worth of batches."""
        cache = self.course.builders[0].cache if self.course is not None else None
        if self._ahead is not None:  # of an earlier loop over this feed
            self._ahead.close()
        if self.course is not None and cache is not None:
            end = min(self._start + self.batches_per_epoch, self._start + len(self._source))
            self._ahead = Ahead(cache, self.course.shards(range(self._start, end)))

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
        """Stop the workers and downloads, if any; those of held-out samples end with the loop."""
        if self._ahead is not None:
            self._ahead.close()
        self._source.close()


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
        kind: local; ray, where workers are Ray actors, one at least; or stored, which gives the
            samples as they are, `stored` and `ext`, read by `workers` threads of this process.

    Raises:
        FileNotFoundError: no such dataset or snapshot.
        StaleColumnError: a column is missing or does not fit.
        ValueError: too few samples for a batch, or ranks that do not divide the lanes.
    """
    where = {"rank": rank, "ranks": ranks, "start": start, "stop": stop}
    return open_mixture(store, [stream], (1,), workers=workers, kind=kind, **where)


def open_mixture(
    store: Store,
    streams: Sequence[StreamConfig],
    weights: Sequence[int],
    *,
    rank: int = 0,
    ranks: int = 1,
    start: int = 0,
    stop: int | None = None,
    workers: int = 0,
    kind: str = "local",
) -> Feed:
    """Open several streams, of any modalities, taken batch by batch in the proportion of `weights`.

    Every batch is of one stream, and says by `stream` of which. Each stream has its own order and
    epochs; of sum(weights) batches in a row, each has its weight. Arguments and errors are those of
    `open_feed`; batches are counted over the mixture, and `failures` is the first stream's.
    """
    if kind == "stored":
        streams = [as_stored(stream) for stream in streams]
    builder = StoredBuilder if kind == "stored" else BatchBuilder
    opened = [(*_open_rows(store, stream, stream.split), stream) for stream in streams]
    orders = [Order(shard_sizes(rows), stream.order) for _, rows, stream in opened]
    builders = [builder(store.uri, stream, rows) for _, rows, stream in opened]
    turns = Turns(tuple(weights), streams[0].seed)
    if len(weights) != len(streams):
        raise ValueError(f"mixture: {len(weights)} weights for {len(streams)} streams; give each.")
    course = Course(builders, orders, turns, rank, ranks)
    for order in orders:
        order.batch(0, rank=rank, ranks=ranks)
    numbers = range(start, stop if stop is not None else 2**62)
    parts = [_about(store, snapshot, stream) for snapshot, _, stream in opened]
    about = {
        **parts[0],
        "batches_per_epoch": sum(order.batches_per_epoch for order in orders),
        "remainder": sum(remainder(order.samples, order.config) for order in orders),
        "course": course,
        "start": start,
        "workers": workers,
        "failures": streams[0].failures,
    }
    if len(parts) > 1:
        told = [part["fingerprints"] for part in parts]
        about["fingerprints"] = {
            **told[0],
            "fingerprint": fingerprint([part["fingerprint"] for part in told]),
            "mixture": told,
            "weights": list(weights),
        }
    every = [shard for _, rows, _ in opened for shard in rows]
    decode = _settle(course, workers, kind) if streams[0].decode != "cpu" else {}
    about["fingerprints"] |= decode
    return Feed(_source(course, numbers, workers, kind), every, **about)


def _settle(course: Course, workers: int, kind: str) -> dict[str, str]:
    """Return who decodes, and why: what a run remembers of it."""
    if kind == "ray":
        from pipelines.ray_feed import settle_on_ray as settle
    else:
        from pipelines.decode_choice import settle
    found = settle(course, workers)
    return {"decode": found.by, "decode_why": found.why}


def _source(course: Course, numbers: range, workers: int, kind: str) -> Source:
    if kind == "ray":
        from pipelines.ray_feed import RayStream

        return RayStream(course, numbers, max(workers, 1))
    if kind not in ("local", "stored"):
        raise ValueError(f"feed is {kind!r}; it must be local, ray or stored.")
    if workers and kind == "stored":
        return ThreadStream(course, numbers, workers)
    if workers:
        return WorkerStream(course, numbers, workers)
    return Loaded(Batches(course, numbers), 0)


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
    plain = replace(stream, mask=MaskConfig(), targets=(), columns={}, frozen_views=0, where={})
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
    chunks = Chunks(builder, places, stream.batch)
    about = {**_about(store, snapshot, stream), "batches_per_epoch": len(chunks), "remainder": 0}
    return Feed(Loaded(chunks, workers), rows, **about)


def _open_rows(
    store: Store, stream: StreamConfig, split: str | None
) -> tuple[Snapshot, list[ShardRows]]:
    snapshot = open_snapshot(store, stream.dataset, stream.snapshot)
    columns = stream.needed_columns()
    return snapshot, read_rows(store, snapshot, split, columns, stream.samples, stream.where)


def _about(store: Store, snapshot: Snapshot, stream: StreamConfig) -> dict[str, Any]:
    found: ByChannels = {}
    for entry in snapshot.parts:
        found = merge_apart(found, apart_from_json(entry.stats["moments"]))
    moments = most_common(found)
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
