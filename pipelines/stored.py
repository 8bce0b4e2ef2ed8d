"""Samples as they are stored: verified bytes in the order of a run, neither decoded nor masked.

For whoever decodes by other means, or measures what reading takes. Bytes are read by threads of
the process that asks: reads and checksums leave it free meanwhile, and a pipe between processes
would take longer than both (`benchmarks/feeds.py --modes bytes`).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import islice
from queue import SimpleQueue

import numpy as np
import torch

from pipelines.batch import Arrays, BatchBuilder, Place, Told
from pipelines.keys import sample_id
from pipelines.local_feed import WORKER_SECONDS
from pipelines.mixture import Course, Task
from pipelines.rows import Row, sample_ids
from pipelines.stream import StreamConfig
from preprocessing.masks import MaskConfig
from storage.shards import ShardError

_AHEAD = 2
"Batches that are read ahead for each thread."


def as_stored(stream: StreamConfig) -> StreamConfig:
    """Return the stream of the same samples in the same order, without what needs pixels."""
    return replace(stream, mask=MaskConfig(), targets=(), columns={}, series="", decode="cpu")


class StoredBuilder(BatchBuilder):
    """Builds batches of `stored` (bytes), `ext` (of their files) and `sample` (B) int64."""

    def build_told(self, places: list[Place], epoch: int) -> Told:
        """Return a batch and what is to be told about it.

        Raises:
            ShardError: a sample is damaged, and the stream allows no failures.
        """
        verified, payload = self._begin(), self.members.payload
        try:
            stored = [payload(shard, row) for shard, row in places]
            exts = [self.rows[shard].values()["ext"][row] for shard, row in places]
            ids = sample_ids(self.rows, places)
        except ShardError:
            found = [self._replaced(place, epoch) for place in places]
            stored = [arrays["stored"] for arrays, _ in found]
            exts = [fields["ext"] for _, fields in found]
            ids = np.array([sample_id(fields["key"]) for _, fields in found], np.int64)
        self._clock.lap("read")
        batch = {"stored": stored, "ext": exts, "sample": torch.from_numpy(ids)}
        return batch, self._about(verified)

    def _sample(self, shard: int, row: int, fields: Row, epoch: int) -> Arrays:
        return {"stored": self.members.payload(shard, row)}


class ThreadStream:
    """Batches of a course by threads, each with open shards of its own."""

    def __init__(self, course: Course, numbers: range, threads: int) -> None:
        self.course, self.numbers, self.threads = course, numbers, threads
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Told]:
        free: SimpleQueue[list[BatchBuilder]] = SimpleQueue()
        for _ in range(self.threads):
            free.put([builder.apart() for builder in self.course.builders])

        def build(task: Task) -> Told:
            builders = free.get()
            try:
                return builders[task.stream].build_told(task.places, task.epoch)
            finally:
                free.put(builders)

        self._pool = pool = ThreadPoolExecutor(self.threads, "stored")
        tasks, late = map(self.course.task, self.numbers), False
        try:
            ahead = [pool.submit(build, task) for task in islice(tasks, _AHEAD * self.threads)]
            while ahead:
                late = not wait(ahead[:1], WORKER_SECONDS).done
                if late:
                    raise TimeoutError(
                        f"stored samples: no batch for {WORKER_SECONDS} s from threads that read "
                        f"{self.course.builders[0].store_uri}. See whether the storage answers."
                    )
                told = ahead.pop(0).result()
                ahead.extend(pool.submit(build, task) for task in islice(tasks, 1))
                yield told
                del told
        finally:
            pool.shutdown(wait=not late, cancel_futures=True)

    def close(self) -> None:
        """Stop the threads once they have what they read."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
