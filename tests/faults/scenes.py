"""Small operations on a store that fault tests interrupt, and what a store must be afterwards."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from pipelines.derive import derive
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.verify import verify
from storage.fs import Store, open_store
from storage.local_files import TEMPORARY
from storage.snapshots import list_snapshots, read_snapshot
from tests.integration.raw import make_images

DATASET = "photos"
SPEC = IngestSpec(modality="image", shard_size=6000, heldout=0.2)


def make_raw(folder: Path) -> Path:
    """Make two folders of pictures, `a` and `b`: rejects, duplicates in one and across both."""
    for name, count, edge in (("a", 5, 24), ("b", 4, 27)):
        make_images(folder / name, count=count, edge=edge)
    (folder / "a" / "coarse" / "text.jpg").write_bytes(b"not a picture")
    (folder / "b" / "fine" / "empty.png").write_bytes(b"")
    shutil.copy(folder / "a" / "fine" / "001.jpg", folder / "a" / "fine" / "again.jpg")
    shutil.copy(folder / "a" / "fine" / "003.png", folder / "b" / "fine" / "from_a.png")
    return folder


def take(root: Path, *sources: Path, executor: Executor | None = None) -> dict[str, Any]:
    """Ingest sources into the store at root."""
    cv2.setNumThreads(1)
    names = [str(source) for source in sources]
    return ingest(open_store(root), names, DATASET, SPEC, executor or Executor())


@dataclass(frozen=True, slots=True)
class Scene:
    """An operation, and the store that it begins with."""

    name: str
    prepare: Callable[[Path, Path], None]
    "called with (store, raw): what is there before"
    work: Callable[[Path, Path], Any]
    "called with (store, raw): what is interrupted"


def _nothing(root: Path, raw: Path) -> None:
    root.mkdir()


def _first(root: Path, raw: Path) -> dict[str, Any]:
    return take(root, raw / "a")


def _second(root: Path, raw: Path) -> dict[str, Any]:
    return take(root, raw / "a", raw / "b")


def _derive(root: Path, raw: Path) -> Any:
    cv2.setNumThreads(1)
    return derive(open_store(root), DATASET, {"hog": {"view": {"size": 16}}}, Executor())


SCENES = {
    scene.name: scene
    for scene in (
        Scene("first", _nothing, _first),
        Scene("second", _first, _second),
        Scene("derive", _first, _derive),
    )
}


def tree(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, temporary and hidden ones too."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def tree_hash(root: Path) -> str:
    """Return one SHA-256 of the names and bytes of all files below a folder."""
    return hashlib.sha256(repr(sorted(tree(root).items())).encode()).hexdigest()


def temporary_files(root: Path) -> list[str]:
    """Return the temporary files that were left below a folder."""
    return [name for name in tree(root) if os.path.basename(name).startswith(TEMPORARY)]


def check_clean(root: Path) -> None:
    """Assert that the dataset verifies, holds no sample twice, and has no file that is half."""
    store = open_store(root)
    assert verify(store, DATASET)["damaged"] == []
    assert temporary_files(root) == []
    keys = sample_keys(store)
    assert len(keys) == len(set(keys)), "a sample is there twice"


def sample_keys(store: Store) -> list[str]:
    """Return the keys of all samples of the last snapshot."""
    from pipelines.catalog import read_samples

    return [row["key"] for row in read_samples(store, DATASET, 10**6)]


def parts(root: Path) -> list[str]:
    """Return the parts of the last snapshot, in order; every snapshot before must be readable."""
    store = open_store(root)
    for number in list_snapshots(store, DATASET):
        assert read_snapshot(store, DATASET, number) is not None
    last = read_snapshot(store, DATASET)
    return [part.part for part in last.parts] if last else []
