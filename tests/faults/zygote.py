"""A process that has imported everything and started no thread: forks of it are quick and safe.

A fork of the test process itself is neither, as other tests start threads in it (OpenCV, Arrow,
Ray), whose locks a fork would inherit for ever.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.faults.torture import Watch

ROOT = Path(__file__).resolve().parents[2]
CHILD_SECONDS = 60
"A child that takes longer hangs, and is ended by its alarm."
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a child ended."""

    code: int
    "0, 3 after an error of its own, minus the signal that killed it"
    calls: int = 0
    trace: tuple[str, ...] = ()
    "the names of the calls that were counted"
    written: int = 0
    "bytes that went through os.write below the watched folder"
    error: str = ""
    result: Any = None
    modules: frozenset[str] = frozenset()
    "what it imported, so that later children find it there"


class Zygote:
    """Runs pickled calls, each in a fresh fork of one clean process."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "tests.faults.zygote"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, work: Callable[..., Any], *arguments: Any, watch: Watch | None = None) -> Outcome:
        """Run a function of a module, under a watch if one is given."""
        assert self._process.stdin is not None and self._process.stdout is not None
        _send(self._process.stdin, (work, arguments, watch))
        outcome: Outcome = _receive(self._process.stdout)
        return outcome

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def _send(stream: IO[bytes], message: object) -> None:
    data = pickle.dumps(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    size = stream.read(_LENGTH.size)
    if len(size) < _LENGTH.size:
        raise EOFError("the other side ended")
    return pickle.loads(stream.read(_LENGTH.unpack(size)[0]))


def _run_in_fork(work: Callable[..., Any], arguments: Any, watch: Watch | None) -> Outcome:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(CHILD_SECONDS)
        _live(work, arguments, watch or Watch(Path("/nowhere")), writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Outcome(code, **pickle.loads(said)) if said else Outcome(code)


def _live(work: Callable[..., Any], arguments: Any, watch: Watch, writing: int) -> None:
    """Be the child: work, tell how it went, and end without the parent's clean-up."""
    code, error, result = 0, "", None
    known = frozenset(sys.modules)
    try:
        watch.begin()
        result = work(*arguments)
    except BaseException as failure:
        code, error = 3, f"{type(failure).__name__}: {failure}"
        if os.environ.get("TORTURE_SHOWS_ERRORS"):
            traceback.print_exc()
    watch.end()
    said = {"calls": watch.calls, "trace": tuple(watch.trace), "written": watch.written}
    said |= {"error": error, "result": result, "modules": frozenset(sys.modules) - known}
    data = pickle.dumps(said)
    while data:
        data = data[os.write(writing, data) :]
    os._exit(code)


def main() -> None:
    """Serve until the other side closes."""
    import cv2

    import tests.faults.scenes  # noqa: F401  (everything that children need, imported once)

    cv2.setNumThreads(1)
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what children print must not go between the replies
    while True:
        try:
            request = _receive(requests)
        except EOFError:
            return
        outcome = _run_in_fork(*request)
        _send(replies, outcome)
        for name in outcome.modules:
            with suppress(ImportError):
                importlib.import_module(name)


if __name__ == "__main__":
    from tests.faults.zygote import main as imported_main  # so that classes have one name

    imported_main()
