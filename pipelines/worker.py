"""What a process does that works for others, whoever started it."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from threading import Thread
from typing import TypeVar

import cv2

Job = TypeVar("Job")
Result = TypeVar("Result")


def traced(function: Callable[[Job], Result], job: Job) -> tuple[Result, int]:
    """Run a job with one thread for each library, and tell which process did."""
    use_one_thread()
    return function(job), os.getpid()


def use_one_thread() -> None:
    """Keep OpenCV, and torch if it is loaded, to one thread: parallelism is over jobs."""
    cv2.setNumThreads(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep OpenCV to one thread in this process, until the block ends."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def end_with_parent() -> None:
    """End this process as soon as the one that it works for is gone, even if that was killed.

    Workers of a pool would otherwise wait for jobs for ever; those of a DataLoader look whether the
    process that forked them lives: the fork server, which lives as long as they do.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
