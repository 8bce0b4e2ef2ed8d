"""Peak memory of a command and of every process that it starts, each for itself."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_SAMPLE_SECONDS = 0.1
_WORKER_MIB = 60
"less than any process that has imported NumPy and Arrow: helpers of multiprocessing"


@dataclass(frozen=True, slots=True)
class Watched:
    """One run of a command."""

    wall: float
    "seconds"
    cpu: float
    "seconds of the process and of all that it waited for"
    driver: float
    "MiB: the most that its first process held (VmHWM)"
    workers: tuple[float, ...]
    "MiB: the same of each process below it, the largest first"
    output: str

    @property
    def worker(self) -> float:
        """The largest worker's peak in MiB; the driver's where it does the work itself."""
        return self.workers[0] if self.workers else self.driver


def watch(command: Sequence[str], **variables: str) -> Watched:
    """Run a command to its end, looking at its processes ten times a second.

    The kernel keeps the peak of each process, so nothing between two looks is missed while a
    process lives.

    Raises:
        RuntimeError: it failed; its last words are in the message.
    """
    began = time.perf_counter()
    peaks: dict[int, float] = {}
    variables = {**os.environ, **variables}
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(
            command, stdout=printed, stderr=subprocess.STDOUT, env=variables, cwd=ROOT
        )
        while True:
            for pid in _family(process.pid):
                peaks[pid] = max(peaks.get(pid, 0.0), _peak(pid))
            found, status, usage = os.wait4(process.pid, os.WNOHANG)
            if found:
                break
            time.sleep(_SAMPLE_SECONDS)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        output = printed.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])}: exit {process.returncode}\n{output[-3000:]}")
    driver = max(peaks.pop(process.pid, 0.0), usage.ru_maxrss / 1024)
    workers = sorted((peak for peak in peaks.values() if peak > _WORKER_MIB), reverse=True)
    cpu = usage.ru_utime + usage.ru_stime
    return Watched(wall, cpu, driver, tuple(workers), output)


def _family(root: int) -> set[int]:
    """Return a process and all that descend from it."""
    parents: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(place.parent.name)] = int(place.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended
            continue
    family = {root}
    while more := {pid for pid, above in parents.items() if above in family} - family:
        family |= more
    return family


def _peak(pid: int) -> float:
    """Return the most memory that a process has held, in MiB; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def headrace(*arguments: str) -> list[str]:
    """Return the command line of the real command, run by this interpreter."""
    return [sys.executable, "-c", "from flows.command import main; main()", *arguments]
