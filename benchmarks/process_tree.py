"""What a process and all that it started take."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psutil


class Tree:
    """CPU and memory of this process and of all that it started, looked at every second.

    Memory: pages of their own, each counted once however many of them share it, and those of the
    largest one's files, which are the libraries that all of them have. What other programs of the
    machine share with them changes nothing, unlike in a sum of `Pss`.
    """

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}
        self.peak = 0
        self.own = 0
        "of the peak, what is not mapped from files"
        threading.Thread(target=self._watch, daemon=True).start()

    def cpu(self) -> float:
        """Return the CPU seconds so far, of processes that have ended too."""
        self._look()
        return sum(self.seconds.values())

    def _watch(self) -> None:
        rest = threading.Event()  # beside a thread that waits workers may be forked
        while True:
            rest.wait(1)
            self._look()

    def _look(self) -> None:
        own, files = 0, 0
        here = psutil.Process()
        for process in [here, *here.children(recursive=True)]:
            try:
                times = process.cpu_times()
                mapped = _mapped(process.pid)
            except (psutil.Error, OSError):  # it ended
                continue
            self.seconds[process.pid] = times.user + times.system
            own += mapped["Pss_Anon"] + mapped["Pss_Shmem"]
            files = max(files, mapped["RssFile"])
        if own + files > self.peak:
            self.peak, self.own = own + files, own


def _mapped(pid: int) -> dict[str, int]:
    """Return the bytes of each kind of memory of a process, as the kernel names them."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    kinds = [line.split()[:2] for line in (*rollup, *status) if line.endswith(" kB")]
    return {name.removesuffix(":"): int(count) * 1024 for name, count in kinds}


def touch(batch: Any) -> None:
    """Read a byte of each page of pixels or bytes, as a trainer reads all: shared memory that was
    sent and that nobody has looked at yet is counted for no process."""
    values = batch["pixels"] if isinstance(batch, dict) else batch
    values = values[0] if isinstance(values, tuple) else values
    if hasattr(values, "flatten"):
        values.flatten()[::4096].max()
