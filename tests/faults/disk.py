"""Disks, clocks and readers that misbehave, put around an operation in a child process."""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults.races import Operation
from tests.faults.torture import Watch

NOBODY = 65534


def with_short_writes(root: Path, raw: Path, work: Operation) -> Any:
    """The system takes at most 100 bytes at once."""
    write = os.write
    os.write = lambda handle, data: write(handle, memoryview(data)[:100])  # type: ignore[assignment]
    return work(root, raw)


def with_small_files(root: Path, raw: Path, work: Operation, size: int) -> Any:
    """The kernel itself cuts the write that would pass `size` short, and refuses the next."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return work(root, raw)


def as_nobody(root: Path, raw: Path, work: Operation) -> Any:
    """Work as a user who owns nothing."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    return work(root, raw)


def with_a_clock_that_jumps(root: Path, raw: Path, work: Operation, at: int) -> Any:
    """From the call `at` on it is ten years later, or earlier for a negative number."""
    real, jump = time.time, [0.0]
    time.time = lambda: real() + jump[0]  # type: ignore[assignment]
    time.time_ns = lambda: int(time.time() * 1e9)  # type: ignore[assignment]

    def meanwhile(number: int, name: str) -> None:
        if number == abs(at):
            jump[0] = 3.2e8 if at > 0 else -3.2e8

    return _watched(root, raw, work, meanwhile)


def with_slow_calls(root: Path, raw: Path, work: Operation, seconds: float) -> Any:
    """Every changing call takes so long, by the clock that deadlines are measured with."""
    real, late = time.monotonic, [0.0]
    time.monotonic = lambda: real() + late[0]  # type: ignore[assignment]

    def meanwhile(number: int, name: str) -> None:
        late[0] += seconds

    return _watched(root, raw, work, meanwhile)


def with_a_failing_read(
    root: Path, raw: Path, work: Operation, at: int, folder: Path, large: bool
) -> tuple[int, Any]:
    """The read number `at` of a file below a folder is an I/O error; returns the reads made.

    Args:
        large: treat every raw file as one that is too large to be read at once.
    """
    if large:
        from pipelines import chunks
        from pipelines import raw as raw_files

        raw_files.SMALL_BYTES = chunks.SMALL_BYTES = 0
    reads = [0]
    with _counted_reads(folder, reads, at):
        result = work(root, raw)
    return reads[0], result


@contextmanager
def _counted_reads(folder: Path, reads: list[int], at: int) -> Iterator[None]:
    real = os.pread

    def read(handle: int, size: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{handle}").startswith(f"{folder}/"):
            reads[0] += 1
            if reads[0] == at:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(handle, size, offset)

    os.pread = read  # type: ignore[assignment]
    try:
        yield
    finally:
        os.pread = real


def _watched(root: Path, raw: Path, work: Operation, meanwhile: Callable[[int, str], None]) -> Any:
    watch = Watch(root, at_call=meanwhile)
    watch.begin()
    try:
        return work(root, raw)
    finally:
        watch.end()
