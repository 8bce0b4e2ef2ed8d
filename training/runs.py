"""What a run leaves besides its checkpoints: run.json, metrics.jsonl, summary.json."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from storage.fingerprint import canonical_json
from storage.fs import Store
from storage.snapshots import check_name


class Metrics:
    """The log of a run: one JSON object a line. Lines of steps that a resumed run takes again are
    dropped.

    It is always written whole, as no object store can append: a reader, or a run that was killed at
    whatever moment, finds all lines up to some step and no half one. A line is encoded once.
    """

    def __init__(self, store: Store, run: str, after: int) -> None:
        self.store, self.path = store, f"runs/{run}/metrics.jsonl"
        self.lines = [line for line in read_metrics(store, run) if line["step"] <= after]
        self._encoded = bytearray()
        self._count = 0

    def add(self, line: dict[str, Any]) -> None:
        """Keep a line; it reaches the store with the next `flush`."""
        self.lines.append(line)

    def flush(self) -> None:
        """Write all lines."""
        for line in self.lines[self._count :]:
            self._encoded += json.dumps(line).encode() + b"\n"
        self._count = len(self.lines)
        self.store.write(self.path, bytes(self._encoded))


def read_metrics(store: Store, run: str) -> list[dict[str, Any]]:
    """Return the lines of a run's log, oldest first."""
    path = f"runs/{run}/metrics.jsonl"
    if not store.exists(path):
        return []
    return [json.loads(line) for line in store.read(path).splitlines() if line]


def write_record(store: Store, run: str, name: str, record: dict[str, Any]) -> None:
    """Write a JSON record of a run, such as run.json."""
    store.write(f"runs/{check_name(run)}/{name}", canonical_json(record))


def read_record(store: Store, run: str, name: str = "run.json") -> dict[str, Any] | None:
    """Return a JSON record of a run; None when there is none."""
    path = f"runs/{check_name(run)}/{name}"
    return json.loads(store.read(path)) if store.exists(path) else None


def read_run(store: Store, run: str) -> dict[str, Any]:
    """Return run.json of a run.

    Raises:
        ValueError: there is no such run.
    """
    record = read_record(store, run)
    if record is None:
        raise ValueError(f"run {run}: there is none in {store.uri}. See 'headrace ls'.")
    return record


def code_version() -> str:
    """Return the version of headrace, and the commit where it runs from a checkout."""
    try:
        version = metadata.version("headrace")
    except metadata.PackageNotFoundError:
        version = "unknown"
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return version
    return f"{version}+{done.stdout.strip()}" if done.returncode == 0 else version
