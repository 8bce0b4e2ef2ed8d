"""Real commands, and the processes below them that can be killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from tests.faults.zygote import ROOT

WAIT_SECONDS = 240.0
Choice = Callable[["Command"], list[psutil.Process]]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


class Command:
    """A `headrace …` that runs as a program of its own, in a session of its own."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        # A shell lets what it starts in the background ignore SIGINT, which commands would inherit.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows", *words],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def runs(self) -> bool:
        """Say whether it has not ended."""
        return self.process.poll() is None

    def below(self) -> list[psutil.Process]:
        """Return the processes that it started, and those that they started."""
        with suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.process.pid).children(recursive=True))
        return []

    def kill(self, choice: Choice, rng: random.Random) -> bool:
        """Send SIGKILL to one of the chosen processes; False where there is none now."""
        found = choice(self)
        if found:
            with suppress(psutil.NoSuchProcess):
                rng.choice(found).kill()
                return True
        return False

    def bury(self) -> None:
        """End what a killed command left, by its session, and close its pipes."""
        session = self.process.pid
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == session:
                    process.kill()
        self.process.communicate()


def finish(command: Command, seconds: float = WAIT_SECONDS) -> Ended:
    """Wait for a command's end."""
    try:
        stdout, stderr = command.process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        command.bury()
        raise
    return Ended(command.process.returncode, stdout, stderr)


def driver(command: Command) -> list[psutil.Process]:
    """Choose the command itself."""
    return [psutil.Process(command.process.pid)] if command.runs() else []


def workers(command: Command) -> list[psutil.Process]:
    """Choose the processes of its pool."""
    return [child for child in command.below() if "spawn_main" in words_of(child)]


def ray_workers(command: Command) -> list[psutil.Process]:
    """Choose the processes in which Ray runs tasks at this moment."""
    return [child for child in command.below() if words_of(child).startswith("ray::traced")]


def engine(command: Command) -> list[psutil.Process]:
    """Choose the server of Prefect that the command started."""
    return [child for child in command.below() if "prefect" in words_of(child)]


def words_of(process: psutil.Process) -> str:
    """Return the command line of a process; empty where it ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
