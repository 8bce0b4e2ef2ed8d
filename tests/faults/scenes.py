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

from pipelines.catalog import read_samples
from pipelines.derive import derive
from pipelines.executors import Executor
from pipelines.gc import collect
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.repair import repair
from pipelines.verify import verify
from storage.fs import open_store
from storage.local_files import TEMPORARY
from storage.snapshots import list_snapshots, read_snapshot, snapshot_path
from tests.integration.raw import make_images

DATASET = "photos"
SPEC = IngestSpec(modality="image", shard_size=1500, heldout=0.2)


def make_raw(folder: Path) -> Path:
    """Make two folders of pictures, `a` and `b`: rejects, duplicates in one and across both."""
    for name, count, edge in (("a", 5, 24), ("b", 4, 27)):
        make_images(folder / name, count=count, edge=edge)
    (folder / "a" / "coarse" / "text.jpg").write_bytes(b"not a picture")
    (folder / "b" / "fine" / "empty.png").write_bytes(b"")
    shutil.copy(folder / "a" / "fine" / "001.jpg", folder / "a" / "fine" / "again.jpg")
    shutil.copy(folder / "a" / "fine" / "003.png", folder / "b" / "fine" / "from_a.png")
    return folder


def take(root: Path | str, *sources: Path, executor: Executor | None = None) -> dict[str, Any]:
    """Ingest sources into the store at a folder or a URI."""
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


def begin(root: Path, raw: Path) -> None:
    """Make an empty store."""
    root.mkdir()


def take_a(root: Path | str, raw: Path) -> dict[str, Any]:
    """Ingest the first folder."""
    return take(root, raw / "a")


def take_b(root: Path | str, raw: Path) -> dict[str, Any]:
    """Ingest the second folder."""
    return take(root, raw / "b")


def take_a_and_b(root: Path | str, raw: Path) -> dict[str, Any]:
    """Ingest both folders."""
    return take(root, raw / "a", raw / "b")


def derive_hog(root: Path, raw: Path) -> Any:
    """Derive a column of the dataset."""
    cv2.setNumThreads(1)
    return derive(open_store(root), DATASET, {"hog": {"view": {"size": 16}}}, Executor())


def leave_garbage(root: Path, raw: Path) -> None:
    """Make a store with a dataset, a part and a column that nothing names, and dead files."""
    take(root, raw / "a")
    derive_hog(root, raw)
    take(root, raw / "b")
    store = open_store(root)
    store.delete(snapshot_path(DATASET, 2))
    next(root.rglob("index.parquet")).unlink()
    for folder in (root / f"datasets/{DATASET}", next(root.rglob("records"))):
        (folder / f"{TEMPORARY}dead").write_bytes(b"half")


def sweep(root: Path, raw: Path) -> dict[str, Any]:
    """Collect the garbage of a store."""
    return collect(open_store(root))


def damage(root: Path, raw: Path) -> None:
    """Make a store with a column, then lose and change some of its files."""
    take_a(root, raw)
    derive_hog(root, raw)
    shards = sorted(root.rglob("parts/*/shard-*.tar"))
    sidecars = sorted(root.rglob("columns/*/*/shard-*.tar"))
    shards[0].unlink()
    sidecars[0].unlink()
    for path in (shards[1], sidecars[1], next(root.rglob("manifest.parquet"))):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def mend(root: Path, raw: Path) -> dict[str, Any]:
    """Make what is damaged again."""
    cv2.setNumThreads(1)
    return repair(open_store(root), DATASET, Executor())


SCENES = {
    scene.name: scene
    for scene in (
        Scene("first", begin, take_a),
        Scene("second", take_a, take_a_and_b),
        Scene("derive", take_a, derive_hog),
        Scene("gc", leave_garbage, sweep),
        Scene("repair", damage, mend),
    )
}


def tree(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, temporary and hidden ones too; the ledger
    of the command holds times, and lies beside what G3 promises."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] != "ledger"
    }


def differences(wanted: dict[str, str], found: dict[str, str]) -> set[str]:
    """Return the files that are in one tree only, or not the same in both."""
    return {name for name, _ in wanted.items() ^ found.items()}


def tree_hash(root: Path) -> str:
    """Return one SHA-256 of the names and bytes of all files below a folder."""
    return hashlib.sha256(repr(sorted(tree(root).items())).encode()).hexdigest()


def temporary_files(root: Path) -> list[str]:
    """Return the temporary files that were left below a folder."""
    return [name for name in tree(root) if os.path.basename(name).startswith(TEMPORARY)]


def check_clean(root: Path) -> None:
    """Assert that the dataset verifies, holds no sample twice, and has no file that is half."""
    verified_parts(root)
    assert temporary_files(root) == []


def verified_parts(root: Path | str, raw: Path | None = None) -> list[str]:
    """Assert that the dataset verifies and holds no sample twice; returns its parts in order."""
    store = open_store(root)
    assert verify(store, DATASET)["damaged"] == []
    keys = [row["key"] for row in read_samples(store, DATASET, 10**6)]
    assert len(keys) == len(set(keys)), "a sample is there twice"
    snapshots = [read_snapshot(store, DATASET, n) for n in list_snapshots(store, DATASET)]
    assert all(snapshots)
    return [part.part for part in snapshots[-1].parts] if snapshots[-1] else []
