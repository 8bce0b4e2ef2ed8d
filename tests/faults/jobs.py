"""Jobs for processes that the tests let die."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Echo:
    """A job that gives its number back."""

    number: int
    folder: str
    deaths: int = 0
    "times that its process dies before"
    seconds: float = 0.0


def echo(job: Echo) -> int:
    """Die as often as the job says, then return its number."""
    time.sleep(job.seconds)
    died = len(list(Path(job.folder).glob(f"{job.number}-*")))
    if died < job.deaths:
        Path(job.folder, f"{job.number}-{died}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return job.number


def process_id(job: Echo) -> int:
    """Tell the parent who runs, by a file, and go on for long."""
    Path(job.folder, f"pid-{os.getpid()}").touch()
    time.sleep(job.seconds)
    return os.getpid()
