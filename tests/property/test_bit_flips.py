"""T3: a changed, missing, extra, moved or repeated byte is found, or changes no decoded value (G5).

Each damage is met twice: by `verify`, and by reading batches or the checkpoint. Reading must raise
a named error or give the batches of the sound store; it never gives others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet

from pipelines.derive import derive
from pipelines.executors import Executor
from pipelines.feed import open_feed
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.rows import StaleColumnError
from pipelines.stream import StreamConfig
from pipelines.verify import verify
from preprocessing.masks import MaskConfig
from preprocessing.targets import TargetConfig
from preprocessing.views import ViewConfig
from storage import tar
from storage.columns import ColumnError
from storage.fs import Store, open_store
from storage.manifest import ManifestError
from storage.shards import ShardError, read_shard, shard_rows
from storage.snapshots import SnapshotError
from tests.integration.raw import make_images
from training.checkpoints import CheckpointError, read_checkpoint, write_checkpoint

NAMED = (ShardError, ManifestError, SnapshotError, ColumnError, StaleColumnError, CheckpointError)
KINDS = {
    "shard": "parts/*/shard-*.tar",
    "manifest": "parts/*/manifest.parquet",
    "rejects": "parts/*/rejects.parquet",
    "inputs": "parts/*/inputs.parquet",
    "sidecar": "columns/*/*/shard-*.tar",
    "index": "columns/*/*/index.parquet",
    "column": "columns/*/column.json",
    "snapshot": "snapshots/000002.json",
    "checkpoint": "checkpoints/step-00000020.pt",
    "record": "checkpoints/step-00000020.json",
}
CHECKPOINTS = ("checkpoint", "record")
SPARE = ("sidecar", "index", "inputs")
"""Of sidecars only members are read; of tables whose SHA-256 nobody keeps, only values. What lies
between may differ unnoticed, since no value that is read does."""


@dataclass(frozen=True, slots=True)
class Lab:
    """A small sound store, and what reading it gives."""

    store: Store
    folder: Path
    stream: StreamConfig
    batches: list[dict[str, Any]]

    def files(self, kind: str) -> list[Path]:
        """Return the files of a kind, those of the stream's own column first."""
        own = {spec.fingerprint[:16] for spec in self.stream.needed_columns().values()}
        found = sorted(
            self.folder.rglob(KINDS[kind]),
            key=lambda path: (not any(name in str(path) for name in own), path),
        )
        assert found, kind
        return found


def read_batches(store: Store, stream: StreamConfig) -> list[dict[str, Any]]:
    feed = open_feed(store, stream, stop=4)
    return list(feed)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Two parts of pictures in several shards, two columns, and checkpoints of a run."""
    folder = tmp_path_factory.mktemp("flips")
    store = open_store(folder / "store")
    spec = IngestSpec(modality="image", shard_size=3000, heldout=0.0)
    for name, count in (("one", 5), ("two", 3)):
        raw = make_images(folder / name, count=count, edge=20 + count)
        (raw / "text.jpg").write_text(f"not a picture, number {count}")
        ingest(store, [str(raw)], "photos", spec, Executor())
    stream = StreamConfig(
        dataset="photos",
        view=ViewConfig(size=16),
        mask=MaskConfig(),
        targets=(TargetConfig(kind="hog", cell=8, source="column"),),
        frozen_views=1,
        patch=8,
        batch=2,
        seed=1,
    )
    for seed in (stream, other_stream(stream)):
        asked = {name: spec.parameters for name, spec in seed.needed_columns().items()}
        derive(store, "photos", asked, Executor())
    for step in (10, 20):
        state = {"step": step, "weight": torch.arange(6.0) + step}
        write_checkpoint(store, "run", step, state, keep=2)
    return Lab(store, folder / "store", stream, read_batches(store, stream))


def other_stream(stream: StreamConfig) -> StreamConfig:
    """The same stream with another column of the same name."""
    from dataclasses import replace

    return replace(stream, view=ViewConfig(size=16, scale=(0.5, 1.0)))


@contextmanager
def damaged(*changes: tuple[Path, bytes]) -> Iterator[None]:
    """Change files in place, and put them back."""
    before = [(path, path.read_bytes()) for path, _ in changes]
    for path, data in changes:
        path.write_bytes(data)
    try:
        yield
    finally:
        for path, data in before:
            path.write_bytes(data)


def found_by_verify(lab: Lab) -> str:
    """Return what verify says; empty where it finds nothing."""
    try:
        return str(verify(lab.store, "photos")["damaged"] or "")
    except NAMED as error:
        return f"{type(error).__name__}: {error}"


def found_by_reading(lab: Lab, kind: str) -> str:
    """Return the error of reading; empty where all that is read is as it was."""
    try:
        if kind in CHECKPOINTS:
            state = read_checkpoint(lab.store, "run", 20)
            assert torch.equal(state["weight"], torch.arange(6.0) + 20) and state["step"] == 20
            return ""
        batches = read_batches(lab.store, lab.stream)
    except NAMED as error:
        return str(error)
    assert len(batches) == len(lab.batches)
    for left, right in zip(batches, lab.batches, strict=True):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left), "damage in a batch"
    return ""


def assert_found(lab: Lab, kind: str, what: str, *changes: tuple[Path, bytes]) -> None:
    """Damage a store: it is found, or nothing that is read differs."""
    sound = lab.folder.parent / f"sound{changes[0][0].suffix}"
    sound.write_bytes(changes[0][0].read_bytes())
    with damaged(*changes):
        read = found_by_reading(lab, kind)
        if kind in CHECKPOINTS:
            assert read, f"{kind}: {what} is not found"
            return
        said = found_by_verify(lab)
        if not said:
            spare = kind in SPARE and not read and same_values(changes[0][0], sound)
            assert spare, f"{kind}: {what} is not found by verify"
        assert "photos" in said or not said
        if read and kind in ("shard", "sidecar"):
            names = [path.name for path, _ in changes]  # the order decides which is read first
            assert any(name in read for name in names), read
            assert "sample " in read and "photos" in read, read


def same_values(first: Path, second: Path) -> bool:
    """Tell whether two tables say the same; of a tar, verify has compared every member."""
    if first.suffix == ".tar":
        return True
    return parquet.ParquetFile(first).read().equals(parquet.ParquetFile(second).read())


def test_the_sound_store_is_sound(lab: Lab) -> None:
    assert not found_by_verify(lab)
    assert not found_by_reading(lab, "shard") and not found_by_reading(lab, "checkpoint")
    assert len(lab.files("shard")) > 2 and len(lab.files("index")) == 4


def flip(data: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def places(path: Path, count: int, draw: random.Random) -> list[int]:
    """Bytes to flip: of a tar mostly those that are no padding, else anywhere."""
    data = path.read_bytes()
    if path.suffix != ".tar":
        return [draw.randrange(len(data)) for _ in range(count)]
    filled = np.flatnonzero(np.frombuffer(data, np.uint8)).tolist()
    return [draw.choice(filled) for _ in range(count - 2)] + [draw.randrange(len(data)), 156]


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found(kind: str, lab: Lab) -> None:
    draw = random.Random(kind)
    for path in lab.files(kind)[:3]:
        data = path.read_bytes()
        for place in places(path, 4, draw):
            changed = flip(data, place, draw.randrange(8))
            assert_found(lab, kind, f"a bit of byte {place} of {path}", (path, changed))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_any_flipped_bit_is_found(kind: str, lab: Lab) -> None:
    """Every byte of records and of tar headers; of the rest every tenth or so."""
    draw = random.Random(kind)
    path = lab.files(kind)[0]
    data = path.read_bytes()
    step = 1 if path.suffix == ".json" else max(1, len(data) // 600)
    chosen = set(range(draw.randrange(step), len(data), step))
    if path.suffix == ".tar":
        chosen |= header_bytes(data)
    for place in sorted(chosen):
        changed = flip(data, place, draw.randrange(8))
        assert_found(lab, kind, f"a bit of byte {place} of {path}", (path, changed))


def header_bytes(data: bytes) -> set[int]:
    """The bytes of the first two headers of a tar."""
    first, second = list(tar.members(data))[:2]
    return {
        *range(first.offset - 512, first.offset),
        *range(second.offset - 512, second.offset),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_cut_and_grown_files_are_found(kind: str, lab: Lab) -> None:
    path = lab.files(kind)[0]
    data = path.read_bytes()
    for cut in (0, 1, len(data) // 2, len(data) - 1):
        assert_found(lab, kind, f"a cut at {cut}", (path, data[:cut]))
    for extra in (b"\0", b"{}", bytes(10240), data):
        assert_found(lab, kind, f"{len(extra)} more bytes", (path, data + extra))


ABSENT = ("index", "column", "snapshot")
"without one of these, what it names is not there, which a run is told (G6): that is no damage"


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_found(kind: str, lab: Lab) -> None:
    path = lab.files(kind)[0]
    aside = path.with_name(".tmp-aside")
    path.rename(aside)
    try:
        read = found_by_reading_or_absent(lab, kind)
        if kind not in (*CHECKPOINTS, *ABSENT):
            assert found_by_verify(lab)
        assert read or kind in ("rejects", "inputs", "column")
    finally:
        aside.rename(path)


def found_by_reading_or_absent(lab: Lab, kind: str) -> str:
    """Reading without its snapshot means the one before it, which has less."""
    if kind == "snapshot":
        return "older" if len(read_snapshot_parts(lab)) == 1 else ""
    try:
        return found_by_reading(lab, kind)
    except AssertionError:
        return ""


def read_snapshot_parts(lab: Lab) -> tuple[Any, ...]:
    from storage.snapshots import read_snapshot

    snapshot = read_snapshot(lab.store, "photos")
    assert snapshot is not None
    return snapshot.parts


def repacked(data: bytes, order: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """Return a tar of ours whose samples (payload and metadata together) come in another order."""
    rows = shard_rows(data, "s")
    ends = [r.meta_offset + r.meta_size + -r.meta_size % 512 for r in rows]
    pieces = [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    joined = b"".join(order(pieces))
    return joined + tar.end(len(joined))


REORDERED: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "two members change places": lambda pieces: [pieces[1], pieces[0], *pieces[2:]],
    "a member is repeated": lambda pieces: [pieces[0], *pieces],
    "a member is in place of another": lambda pieces: [pieces[1], pieces[1], *pieces[2:]],
    "a member is gone": lambda pieces: pieces[1:],
}


@pytest.mark.parametrize("what", REORDERED)
def test_members_of_a_shard_out_of_place_are_found(what: str, lab: Lab) -> None:
    paths = [p for p in lab.files("shard") if len(shard_rows(p.read_bytes(), "s")) > 1]
    data = paths[0].read_bytes()
    changed = repacked(data, REORDERED[what])
    assert changed != data and repacked(data, lambda pieces: pieces) == data
    assert_found(lab, "shard", what, (paths[0], changed))
    if what != "two members change places":  # a sound shard; only its manifest says otherwise
        with damaged((paths[0], changed)), pytest.raises(ShardError):
            place = str(paths[0].relative_to(lab.folder))
            list(read_shard(lab.store, place, len(shard_rows(data, "s"))))


def swapped(first: Path, second: Path) -> tuple[tuple[Path, bytes], tuple[Path, bytes]]:
    return (first, second.read_bytes()), (second, first.read_bytes())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in CHECKPOINTS])
def test_another_sound_file_in_its_place_is_found(kind: str, lab: Lab) -> None:
    if kind == "snapshot":
        first, second = sorted(lab.folder.rglob("snapshots/*.json"))
    else:
        first, second = lab.files(kind)[:2]
    assert first.read_bytes() != second.read_bytes()
    assert_found(lab, kind, "another file's content", (first, second.read_bytes()))
    assert_found(lab, kind, "two files that changed places", *swapped(first, second))


def test_a_sound_column_in_the_place_of_another_is_found(lab: Lab) -> None:
    """Index and sidecars together, as when a folder is moved by hand."""
    needed = next(iter(lab.stream.needed_columns().values())).fingerprint[:16]
    folders = sorted(lab.folder.rglob("columns/*"))
    mine = next(f for f in folders if f.name.endswith(needed))
    other = next(f for f in folders if f.is_dir() and f.parent == mine.parent and f != mine)
    changes = [
        (path, (other / path.relative_to(mine)).read_bytes())
        for path in sorted(mine.rglob("*"))
        if path.is_file() and path.name != "column.json"
    ]
    assert any(path.read_bytes() != data for path, data in changes)
    assert_found(lab, "index", "another column's parts", *changes)


@pytest.mark.parametrize("both", [False, True])
def test_another_checkpoint_in_its_place_is_found(both: bool, lab: Lab) -> None:
    data, record = (lab.files(kind)[0] for kind in CHECKPOINTS)
    older = [Path(str(path).replace("00000020", "00000010")) for path in (data, record)]
    changes = [(data, older[0].read_bytes()), (record, older[1].read_bytes())]
    assert_found(lab, "checkpoint", "another step's bytes", *changes[: 2 if both else 1])
