"""Runs one function over many jobs, in this process, in several, or on Ray: same results, whatever
the order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from pipelines.processes import run_in_processes
from pipelines.worker import one_thread

KINDS = ("direct", "threads", "processes", "ray")
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Executor:
    """Where jobs run."""

    kind: str = "direct"
    "threads or processes of this machine, ray, or direct: which of the first two suits the work"
    workers: int = 1
    ray_address: str = ""
    "a running Ray cluster; empty starts one in this process"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"executor is {self.kind!r}; it must be one of {', '.join(KINDS)}.")
        if self.workers < 1:
            raise ValueError(f"--workers is {self.workers}; it must be at least 1.")


def run_jobs(
    function: Callable[[Job], Result], jobs: Collection[Job], executor: Executor
) -> Iterator[tuple[int, Result, int]]:
    """Yield (index of the job, its result, id of the process that ran it) as jobs end.

    The function must be importable (defined at the top of a module) and give the same result
    wherever it runs.
    """
    if executor.kind == "ray":
        from pipelines.ray_jobs import run_on_ray

        yield from run_on_ray(function, jobs, executor.workers, executor.ray_address)
    elif executor.workers == 1 or len(jobs) <= 1:
        for index, job in enumerate(jobs):
            yield index, function(job), os.getpid()
    elif executor.kind == "threads":
        yield from _run_in_threads(function, jobs, executor.workers)
    else:
        yield from run_in_processes(function, jobs, executor.workers)


def _run_in_threads(
    function: Callable[[Job], Result], jobs: Collection[Job], workers: int
) -> Iterator[tuple[int, Result, int]]:
    """Run jobs whose work leaves Python's lock: nothing has to be started or sent.

    There is a thread more than workers, so that no core rests while a file is synced.
    """
    with one_thread(), ThreadPoolExecutor(workers + 1, "headrace") as pool:
        waiting: deque[tuple[int, Future[Result]]] = deque()
        try:
            for index, job in enumerate(jobs):
                waiting.append((index, pool.submit(function, job)))
                if len(waiting) > 2 * workers:
                    first, future = waiting.popleft()
                    yield first, future.result(), os.getpid()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result(), os.getpid()
        finally:
            for _, future in waiting:
                future.cancel()
