"""What a process does that works for others, whoever started it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import TypeVar

import cv2

Job = TypeVar("Job")
Result = TypeVar("Result")
QUIET_SECONDS = 0.25
"How long a fork waits for the other threads of Python to come to rest."
_RESTS = {
    ("threading.py", "wait"),
    ("threading.py", "_wait_for_tstate_lock"),
    ("selectors.py", "select"),
    ("thread.py", "_worker"),
}
"files and functions of the standard library in which a thread waits, and holds no lock of ours"


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


def reason_not_to_fork() -> str:
    """Return why workers should not be forked from this process; empty if they may be.

    A fork copies the locks of all threads and none of the threads: what another one holds at that
    moment stays locked. Ray's, gRPC's, CUDA's and NCCL's threads are always at work; those of
    Python are looked at until all of them wait. Threads of OpenCV are ended by `one_thread`, those
    of OpenMP and Arrow only work while somebody waits for them; malloc looks after itself.
    """
    for name in ("ray", "grpc"):
        if name in sys.modules:
            return f"{name} is loaded"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "CUDA is in use"
    if (
        torch is not None
        and torch.distributed.is_available()
        and torch.distributed.is_initialized()
    ):
        return "other ranks are waited for by threads"
    until = time.monotonic() + QUIET_SECONDS
    while busy := _at_work():
        if time.monotonic() > until:
            return f"thread {busy[0]} is at work"
        time.sleep(0.005)
    return ""


def _at_work() -> list[str]:
    """Return the names of the other threads of Python that do not wait."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    here = threading.get_ident()
    return [
        names.get(ident, str(ident))
        for ident, frame in sys._current_frames().items()
        if ident != here
        and (Path(frame.f_code.co_filename).name, frame.f_code.co_name) not in _RESTS
    ]


@contextmanager
def ready_to_fork() -> Iterator[None]:
    """Fork inside of this: OpenCV's threads are ended, and pages that are only read stay shared."""
    gc.freeze()  # else the first collection of a worker writes to every object
    try:
        with one_thread():
            yield
    finally:
        gc.unfreeze()
