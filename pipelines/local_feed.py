"""Batches of the local feed: computed in this process, or sooner by workers of this machine.

Workers share memory with the process that they work for, end with it, and are started again where
one dies; whatever they do, a batch is a function of its number. They are forked from that process
where this is safe, which takes milliseconds and no memory of its own, else from a fork server.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from pipelines.batch import Batch, BatchBuilder, Told
from pipelines.memory import Blocks, Loans, SharedBlocks
from pipelines.mixture import Course
from pipelines.worker import (
    end_with_parent,
    one_thread,
    ready_to_fork,
    reason_not_to_fork,
    use_one_thread,
)
from pipelines.worker_watch import abandon, end_together
from storage.fs import Store

HELDOUT_EPOCH = 0
"Held-out batches are always drawn as of this epoch: fixed views and masks."
WORKER_SECONDS = 600
"Deadline for a batch from a worker."
RESTARTS = 8
"How often a feed starts its workers again after one has died."
FORKED_SECONDS = 60
"After so long without a batch forked workers are taken to wait for ever: a fork server's follow."
_LOOK_SECONDS = 5
_SMALL = 1 << 20
FORK, SERVER = "fork", "forkserver"


class Batches(Dataset[Told]):
    """This rank's share of batches, by their number."""

    def __init__(self, course: Course, numbers: range, used: torch.Tensor | None = None) -> None:
        self.course, self.numbers, self.used = course, numbers, used
        self.builders = course.builders
        self.copied: list[Told] = []
        "what a forked worker has a copy of, and lets go"

    def __len__(self) -> int:
        return len(self.numbers)

    def settle_in(self, worker: int) -> None:
        """Prepare a worker: all its batches are written into the same few blocks."""
        self.copied.clear()
        blocks = SharedBlocks(worker, self.used)
        for builder in self.builders:
            builder.blocks = blocks

    def __getitem__(self, index: int) -> Told:
        return self.course.build(self.course.task(self.numbers[index]))


class Chunks(Dataset[Told]):
    """All samples in stored order, cut into batches; the last one may be short."""

    def __init__(self, builder: BatchBuilder, places: list[tuple[int, int]], batch: int) -> None:
        self.builder, self.places, self.batch = builder, places, batch
        self.builders = (builder,)

    def __len__(self) -> int:
        return -(-len(self.places) // self.batch)

    def settle_in(self, worker: int) -> None:
        """Prepare a worker."""
        self.builder.blocks = SharedBlocks(worker, None)

    def __getitem__(self, index: int) -> Told:
        chosen = self.places[index * self.batch : (index + 1) * self.batch]
        return self.builder.build_told(chosen, HELDOUT_EPOCH)


def _packed(told: Told) -> Told:
    """Return a batch as a worker sends it: small tensors as arrays, which go by the pipe.

    Every tensor would be a file of its own, opened in both processes: 0.3 ms.
    """
    batch, about = told
    return {name: _sent(value) for name, value in batch.items()}, about


def _sent(value: Any) -> Any:
    small = isinstance(value, torch.Tensor) and value.nbytes < _SMALL
    return value.numpy() if small else value


def received(batch: Batch) -> Batch:
    """Return a batch with what a worker sent as tensors again, pinned where there is CUDA."""
    pin = torch.cuda.is_available()
    return {name: _received(value, pin) for name, value in batch.items()}


def _received(value: Any, pin: bool) -> Any:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    host = pin and isinstance(value, torch.Tensor) and not value.is_cuda
    return value.pin_memory() if host else value


class Loaded:
    """Batches as a loader gives them, anew each time they are asked for."""

    def __init__(self, batches: Batches | Chunks, workers: int) -> None:
        self.batches, self.workers = batches, workers

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Told]:
        if not self.workers:  # torch's loader would take 0.1 ms a batch here
            return map(self.batches.__getitem__, range(len(self.batches)))
        method = way_to_start(self.batches.builders)
        return _begun(begin, self.batches, self.workers, method).result()

    def close(self) -> None:
        """Stop nothing: workers end with the loop."""


class WorkerStream:
    """Batches of a course by workers, save the first: it is built here, before they start.

    A fork server with its imports takes seconds; nobody has to wait for it, or share a core with
    it. Where a worker dies, all are started again with the batch that is due.
    """

    def __init__(self, course: Course, numbers: range, workers: int) -> None:
        self.course, self.numbers, self.workers = course, numbers, workers
        self.started: Any = None
        "the loader's iterator, which owns the workers"
        self.loans: Loans | None = None
        "the workers' memory that is in use here"
        self.method = ""
        "how they were started"
        self._first: list[Told] = []
        "the batch built here, until it is asked for"
        self._may_fork = True
        self._closed = False

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Told]:
        if not len(self.numbers):
            return
        self._closed = False
        with one_thread():
            self._first.append(self.course.build(self.course.task(self.numbers[0])))
        starting = self._start(1)
        try:
            yield self._first.pop()
        finally:
            starting.result()
        restarts = 0
        for done in range(1, len(self.numbers)):
            while True:
                try:
                    told = self._next()
                    break
                except (RuntimeError, EOFError, OSError) as error:
                    if restarts == RESTARTS or not _died(error):
                        raise
                    self._may_fork = not isinstance(error, _Stuck)
                restarts += 1
                abandon(self.started)
                self._start(done).result()
            yield told
            del told  # else its block is in use until the next batch has come

    def _start(self, done: int) -> Future[None]:
        """Start workers; those of a fork server meanwhile, forked ones before this returns."""
        self.method = way_to_start(self.course.builders) if self._may_fork else SERVER
        starting = _begun(self._start_now, self.numbers[done:])
        if self.method == FORK:
            starting.result()
        return starting

    def _start_now(self, left: range) -> None:
        self.loans = Loans(self.workers)
        batches = Batches(self.course, left, self.loans.used)
        if self.method == FORK:
            batches.copied = self._first
        started = begin(batches, self.workers, self.method, _LOOK_SECONDS) if left else None
        self.started = started
        for builder in self.course.builders:
            builder.blocks = Blocks()  # none is built here any more
        if self.started is not None:
            end_together(self.started)
        if self._closed:  # meanwhile
            self.started = None

    def _next(self) -> Told:
        """Return the next batch; torch looks whether its workers live only when it gives up."""
        asked = time.monotonic()
        assert self.loans is not None
        self.loans.settle()
        while True:
            try:
                told: Told = next(self.started)
                self.loans.lend(told[1].block, told[0]["pixels"])
                return told
            except RuntimeError as error:
                waited = time.monotonic() - asked
                if "timed out after" not in str(error) or waited > WORKER_SECONDS:
                    raise
                if self.method == FORK and waited > FORKED_SECONDS:
                    raise _Stuck(f"no batch for {waited:.0f} s") from error

    def close(self) -> None:
        """Stop the workers, those too that are being started."""
        self._closed = True
        self.started = None


_CUT_OFF = (ConnectionError, EOFError, FileNotFoundError)
"what fetching a tensor meets when the worker that holds it dies at that moment"


class _Stuck(RuntimeError):
    """Forked workers gave nothing for too long."""


def _died(error: Exception) -> bool:
    """Say whether the loader lost a worker, rather than met an error in one."""
    told = type(error) is RuntimeError and "DataLoader worker (pid" in str(error)
    half = type(error) is OSError and "end of file during message" in str(error)
    return told or half or isinstance(error, (_Stuck, *_CUT_OFF))


def way_to_start(builders: Iterable[BatchBuilder]) -> str:
    """Return how workers are started: forked, unless something here may hold a lock of theirs.

    Clients of remote stores do: their connections are kept by threads.
    """
    local = all(Store(builder.store_uri).local_path() is not None for builder in builders)
    return FORK if local and not reason_not_to_fork() else SERVER


def _begun(function: Callable[..., Any], *given: Any) -> Future[Any]:
    """Call a function in a thread of its own.

    Where the main thread starts workers, torch has the death of one interrupt whatever that thread
    does at the moment, as a step of the trainer.
    """
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(function(*given))
        except BaseException as error:
            future.set_exception(error)

    Thread(target=call, daemon=True).start()
    return future


def begin(
    batches: Batches | Chunks, workers: int, method: str, deadline: float = WORKER_SECONDS
) -> Iterator[Told]:
    """Start workers; returns the loader's iterator, which owns them."""
    with ready_to_fork() if method == FORK else nullcontext():
        return iter(load(batches, workers, method, deadline))


def _start_worker(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who they work for decides, and may go on a while
    use_one_thread()
    torch.set_num_threads(1)
    info = get_worker_info()
    assert info is not None
    info.dataset.settle_in(worker)  # type: ignore[attr-defined]
    end_with_parent()


def load(
    batches: Dataset[Told], workers: int, method: str = SERVER, deadline: float = WORKER_SECONDS
) -> DataLoader[Told]:
    """Return a loader of whole batches by workers, in order."""
    if method == SERVER:
        multiprocessing.set_forkserver_preload([__name__])
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=method,
        # Two batches ahead at least: each one more a worker is a block more of its memory.
        prefetch_factor=max(1, 2 // workers),
        collate_fn=_packed,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
        timeout=deadline,
        # Else a seed for workers is drawn from torch's own generator, by a thread, at a moment at
        # which the trainer may be drawing its first weights.
        generator=torch.Generator(),
    )
