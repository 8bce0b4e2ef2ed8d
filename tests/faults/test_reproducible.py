"""T10: the bytes of a store depend on inputs and settings alone (G4), for all four modalities."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from storage.fs import open_store
from tests.faults import scenes
from tests.faults.zygote import Zygote
from tests.integration.raw import FIELD_PATTERN, make_fields, make_images, make_tiles, make_videos


@dataclass(frozen=True, slots=True)
class Kind:
    """A modality: how its raw files are made, and what an ingest of them asks for."""

    make: Callable[[Path], Path]
    values: dict[str, Any]


KINDS = {
    "image": Kind(make_images, {"resize": 24}),
    "video": Kind(make_videos, {"frames": 8, "resize": 32}),
    "microscopy": Kind(make_fields, {"pattern": FIELD_PATTERN, "tile": 24}),
    "satellite": Kind(make_tiles, {"tile": 16}),
}
THREADS = [Executor(kind="threads", workers=n) for n in (2, 3)]
PROCESSES = [Executor(kind="processes", workers=n) for n in (2, 3)]
ON_RAY = [Executor(kind="ray", workers=n) for n in (1, 2, 3)]


def ingest_all(place: Path, raw: Path, executors: list[Executor]) -> dict[str, set[str]]:
    """Ingest every modality with every executor; returns the hashes of the trees."""
    signal.alarm(280)
    found: dict[str, set[str]] = {}
    for name, kind in KINDS.items():
        spec = IngestSpec(modality=name, shard_size=4096, heldout=0.2, **kind.values)
        for number, executor in enumerate(executors):
            root = place / f"{executor.kind}-{number}-{name}"
            report = ingest(open_store(root), [str(raw / name)], name, spec, executor)
            assert report["shards"] > 1, name
            found.setdefault(name, set()).add(scenes.tree_hash(root))
    return found


class Line:
    """Raw files of all modalities, and the trees that one process makes of them."""

    def __init__(self, place: Path, zygote: Zygote) -> None:
        self.place, self.zygote = place, zygote
        for name, kind in KINDS.items():
            kind.make(place / "raw" / name)
        self.wanted = self.run([Executor()])

    def run(self, executors: list[Executor]) -> dict[str, set[str]]:
        done = self.zygote.run(ingest_all, self.place, self.place / "raw", executors)
        assert done.error == ""
        hashes: dict[str, set[str]] = done.result
        return hashes


@pytest.fixture(scope="module")
def line(zygote: Zygote) -> Iterator[Line]:
    with TemporaryDirectory(prefix="reproducible-") as place:
        yield Line(Path(place), zygote)


def test_threads_change_no_byte(line: Line) -> None:
    assert line.run(THREADS) == line.wanted


@pytest.mark.slow
def test_processes_change_no_byte(line: Line) -> None:
    assert line.run(PROCESSES) == line.wanted


@pytest.mark.slow
@pytest.mark.ray
def test_ray_changes_no_byte(line: Line) -> None:
    assert line.run(ON_RAY) == line.wanted
