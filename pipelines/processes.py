"""Jobs in processes of this machine, which may die: what they had is run again.

A process is killed by the system for its memory, by a fault inside a decoder, or by a person. It
takes all running jobs of its pool with it. These run again one at a time, so the job that kills is
found and named, and the others lose nothing.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from pipelines.worker import end_with_parent, traced

ATTEMPTS = 3
"Times that a job is run alone before its process's death is taken for its own fault."
SHOWN_CHARACTERS = 160
"Of a job, in an error."
Job = TypeVar("Job")
Result = TypeVar("Result")


class WorkerDiedError(RuntimeError):
    """A job whose process dies each time."""


def run_in_processes(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Iterator[tuple[int, Result, int]]:
    """Yield (index of the job, its result, id of the process that ran it) as jobs end.

    Jobs are taken from the iterable as they are begun: at most twice as many as there are workers
    wait. A job may run more than once, so it must be harmless to repeat.

    Raises:
        WorkerDiedError: a job's process died each time. Names the job.
    """
    following = iter(enumerate(jobs))
    broken = True
    while broken:
        lost: list[tuple[int, Job]] = []
        broken = yield from _run_in_pool(function, following, workers, lost)
        yield from _run_alone(function, sorted(lost, key=lambda item: item[0]))


def _run_in_pool(
    function: Callable[[Job], Result],
    following: Iterator[tuple[int, Job]],
    workers: int,
    lost: list[tuple[int, Job]],
) -> Generator[tuple[int, Result, int], None, bool]:
    """Run jobs until there are no more (False) or a process dies (True); collect those it lost."""
    waiting: dict[Future[tuple[Result, int]], tuple[int, Job]] = {}
    with _pool(workers) as pool:
        try:
            while not lost:
                while len(waiting) < 2 * workers and (item := next(following, None)) is not None:
                    try:
                        waiting[pool.submit(traced, function, item[1])] = item
                    except BrokenProcessPool:
                        lost.append(item)
                        break
                if not waiting:
                    break
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    item = waiting.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        lost.append(item)
                    else:
                        yield item[0], *future.result()
            lost.extend(waiting.values())
            return bool(lost)
        finally:
            for future in waiting:
                future.cancel()


def _run_alone(
    function: Callable[[Job], Result], jobs: Iterable[tuple[int, Job]]
) -> Iterator[tuple[int, Result, int]]:
    """Run jobs one after the other, so that a process that dies had only one."""
    pool = _pool(1)
    try:
        for index, job in jobs:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    result, process = pool.submit(traced, function, job).result()
                except BrokenProcessPool as error:
                    if attempt == ATTEMPTS:
                        raise died(function, index, job) from error
                    pool.shutdown()
                    pool = _pool(1)
                else:
                    yield index, result, process
                    break
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)


def died(function: Callable[[Job], Result], index: int, job: Job) -> WorkerDiedError:
    """Return the error of a job whose process died each time, which names it."""
    shown = repr(job)
    if len(shown) > SHOWN_CHARACTERS:
        shown = f"{shown[:SHOWN_CHARACTERS]}…"
    return WorkerDiedError(
        f"{function.__name__}, job {index}: its process died {ATTEMPTS} times, with nothing else "
        "to do. Look for 'Out of memory', or a fault of a library, in the system's log. What "
        f"is finished stays, so the same command goes on here. The job: {shown}"
    )
