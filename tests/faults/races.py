"""Two operations on one store at once: the second begins at a chosen call of the first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.torture import Watch

PATIENCE_SECONDS = 0.4
"How long the first stands still for the second, which may itself wait for the first."
Operation = Callable[[Path, Path], Any]


class _Other:
    """A fork of this process that waits for its start; it ends with the operation."""

    def __init__(self, work: Operation, root: Path, raw: Path) -> None:
        reading, self._start = os.pipe()
        self._code: int | None = None
        self._child = os.fork()
        if self._child == 0:
            os.close(self._start)
            os.read(reading, 1)
            code = 70
            try:
                work(root, raw)
                code = 0
            finally:
                os._exit(code)
        os.close(reading)

    def begin(self, seconds: float) -> None:
        """Let it go, and stand still until it ends, but not longer than that."""
        os.write(self._start, b"x")
        deadline = time.monotonic() + seconds
        while not self._ended(os.WNOHANG) and time.monotonic() < deadline:
            time.sleep(0.002)

    def join(self) -> int:
        """Wait for its end; returns its exit code."""
        os.close(self._start)
        self._ended(0)
        assert self._code is not None
        return self._code

    def _ended(self, flags: int) -> bool:
        if self._code is None:
            child, status = os.waitpid(self._child, flags)
            if child:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is not None


def race(
    root: Path, raw: Path, first: Operation, second: Operation, at: int
) -> tuple[int, int, bool]:
    """Run the first, and at its call number `at` the second, in another process.

    Returns:
        exit code of the second, calls of the first, and whether the second began before the end.
    """
    other = _Other(second, root, raw)

    def meanwhile(number: int, name: str) -> None:
        if number == at:
            other.begin(PATIENCE_SECONDS)

    watch = Watch(root, at_call=meanwhile)
    watch.begin()
    try:
        first(root, raw)
    finally:
        watch.end()
    return other.join(), watch.calls, watch.calls >= at
