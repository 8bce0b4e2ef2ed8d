"""Damage is named, and made again from the sources byte for byte, or stays named (G2, G3, G5)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.command import app
from pipelines.catalog import read_samples
from pipelines.derive import derive
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.repair import repair
from pipelines.verify import verify
from storage.fs import Store, open_store
from storage.snapshots import part_path, read_snapshot
from tests.integration.raw import FIELD_PATTERN, make_fields, make_images, make_videos
from tests.integration.test_ingest import spec, tree_hash

DIRECT = Executor()


def make_photos(root: Path) -> Store:
    """Two parts with duplicates and rejects, and a column of both."""
    raw = make_images(root / "raw")
    (raw / "text.jpg").write_text("not a picture")
    shutil.copy(raw / "fine" / "001.jpg", raw / "again.jpg")
    store = open_store(root / "store")
    ingest(store, [str(raw)], "photos", spec(labels="parent"), DIRECT)
    make_images(raw / "more", count=4, edge=52)
    shutil.copy(raw / "fine" / "005.jpg", raw / "third.jpg")
    ingest(store, [str(raw)], "photos", spec(labels="parent"), DIRECT)
    derive(store, "photos", {"hog": {"view": {"size": 32}}}, DIRECT)
    return store


def make_cells(root: Path) -> Store:
    """Fields of which one lacks a channel, so that the plan itself refuses files."""
    raw = make_fields(root / "raw")
    (raw / "P1_B02_s1_w2_ER.tif").unlink()
    store = open_store(root / "store")
    ingest(store, [str(raw)], "photos", spec(modality="microscopy", pattern=FIELD_PATTERN), DIRECT)
    return store


def make_clips(root: Path) -> Store:
    """Clips, of which a source gives several."""
    raw = make_videos(root / "raw", count=3, frames=20)
    store = open_store(root / "store")
    values = {"modality": "video", "frames": 8, "resize": 32, "shard_size": 4096}
    ingest(store, [str(raw)], "photos", spec(**values), DIRECT)
    return store


def flip(path: Path) -> None:
    """Change a byte; of an index one among its values, as Parquet has spare bytes elsewhere."""
    data = bytearray(path.read_bytes())
    data[60 if path.name == "index.parquet" else len(data) // 2] ^= 16
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def files(store: Store) -> list[str]:
    """Return what a repair can make again: all but the newest snapshot."""
    newest = read_snapshot(store, "photos")
    assert newest is not None
    return [e.path for e in store.list() if not e.path.endswith(f"{newest.number:06d}.json")]


@pytest.mark.parametrize("harm", [Path.unlink, flip, cut], ids=["lost", "flipped", "cut"])
@pytest.mark.parametrize("make", [make_photos, make_cells, make_clips])
def test_every_file_is_made_again(
    make: Callable[[Path], Store], harm: Callable[[Path], None], tmp_path: Path
) -> None:
    store = make(tmp_path)
    root, before = tmp_path / "store", tree_hash(tmp_path / "store")
    kinds: dict[str, str] = {}
    for path in files(store):
        kind = path.replace("000001", "000000") if "/records/" in path else Path(path).suffix
        kinds.setdefault(f"{'/columns/' in path} {Path(kind).name}", path)
    assert len(kinds) > 5
    for path in kinds.values():
        if harm is Path.unlink and path.endswith("column.json"):
            continue  # without it there is no column: it is derived anew
        harm(root / path)
        found = verify(store, "photos")["damaged"]
        assert path in {entry["where"] for entry in found}, path
        result = repair(store, "photos", DIRECT)
        assert (result["damaged"], result["repaired"]) == ([], [path]), path
        assert tree_hash(root) == before, path


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [make_photos, make_cells])
def test_all_files_at_once_are_made_again(
    make: Callable[[Path], Store], workers: int, tmp_path: Path
) -> None:
    store = make(tmp_path)
    root, before = tmp_path / "store", tree_hash(tmp_path / "store")
    gone = [path for path in files(store) if "/columns/" not in path and "inputs" not in path]
    for path in gone:
        (root / path).unlink()
    result = repair(store, "photos", Executor(workers=workers))
    assert (result["damaged"], result["repaired"]) == ([], sorted(gone))
    assert tree_hash(root) == before


def test_a_repair_that_is_killed_can_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    store = make_photos(tmp_path)
    root, before = tmp_path / "store", tree_hash(tmp_path / "store")
    for path in files(store):
        if path.endswith((".tar", "manifest.parquet", "index.parquet")):
            flip(root / path)
    write, left = Store.write, 0

    def write_some(self: Store, path: str, data: bytes) -> None:
        nonlocal left
        left -= self.uri == store.uri
        if left < 0:
            raise Killed
        write(self, path, data)

    monkeypatch.setattr(Store, "write", write_some)
    for allowed in (1, 3, 5):
        left = allowed
        with pytest.raises(Killed):
            repair(store, "photos", DIRECT)
    left = 1000
    assert repair(store, "photos", DIRECT)["damaged"] == []
    assert tree_hash(root) == before


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "changed"])
def test_a_source_that_is_gone_is_named_and_its_shard_stays_damaged(
    gone: bool, tmp_path: Path
) -> None:
    store = make_photos(tmp_path)
    row = read_samples(store, "photos", 1)[0]
    for shard in (tmp_path / "store").rglob("parts/*/shard-*.tar"):
        shard.unlink()
    source = Path(row["source"])
    if gone:
        source.unlink()
    else:
        flip(source)
    result = repair(store, "photos", DIRECT)
    assert len(result["damaged"]) == 1
    assert result["damaged"][0]["where"].endswith("shard-000000.tar")
    assert f"its source {source}" in result["damaged"][0]["detail"]
    assert "Bring it back" in result["damaged"][0]["detail"]
    assert len(result["repaired"]) >= 3


def test_records_and_sources_that_are_both_gone_are_said(tmp_path: Path) -> None:
    store = make_photos(tmp_path)
    next((tmp_path / "store").rglob("parts/*/records/shard-000000.json")).unlink()
    shutil.rmtree(tmp_path / "raw")
    damaged = repair(store, "photos", DIRECT)["damaged"]
    assert len(damaged) == 1
    assert "its sources cannot be listed" in damaged[0]["detail"]


def test_a_part_that_is_gone_as_a_whole_is_made_again(tmp_path: Path) -> None:
    store = make_photos(tmp_path)
    root, before = tmp_path / "store", tree_hash(tmp_path / "store")
    snapshot = read_snapshot(store, "photos")
    assert snapshot is not None
    shutil.rmtree(root / part_path("photos", snapshot.parts[1].part))
    assert repair(store, "photos", DIRECT)["damaged"] == []
    assert tree_hash(root) == before


def test_the_metadata_of_a_sample_are_checked_too(tmp_path: Path) -> None:
    store = make_photos(tmp_path)
    row = read_samples(store, "photos", 1)[0]
    snapshot = read_snapshot(store, "photos")
    assert snapshot is not None
    part = tmp_path / "store" / part_path("photos", snapshot.parts[0].part)
    shard = part / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[row["meta_offset"] + 1] ^= 2
    shard.write_bytes(data)
    found = verify(store, "photos")["damaged"]
    assert [(entry["sample"], Path(entry["where"]).name) for entry in found] == [
        (row["key"], "shard-000000.tar")
    ]


def test_samples_are_named_without_a_manifest(tmp_path: Path) -> None:
    store = make_cells(tmp_path)
    row = read_samples(store, "photos", 1)[0]
    shard = next((tmp_path / "store").rglob("shard-000000.tar"))
    data = bytearray(shard.read_bytes())
    data[row["offset"] + 5] ^= 1
    shard.write_bytes(data)
    next((tmp_path / "store").rglob("manifest.parquet")).unlink()
    found = verify(store, "photos", Executor(workers=2))["damaged"]
    assert {entry["sample"] for entry in found} == {"", row["key"]}


def test_headers_of_sidecars_and_files_that_nothing_names_are_found(tmp_path: Path) -> None:
    store = make_photos(tmp_path)
    sidecar = next((tmp_path / "store").rglob("columns/*/*/shard-000000.tar"))
    data = bytearray(sidecar.read_bytes())
    data[257] ^= 1  # a byte of the first header
    sidecar.write_bytes(data)
    (sidecar.parent / "shard-000099.tar").write_bytes(b"")
    part = next((tmp_path / "store").rglob("parts/*"))
    (part / "notes.txt").write_text("mine")
    found = {Path(d["where"]).name: d["detail"] for d in verify(store, "photos")["damaged"]}
    assert found.keys() == {"shard-000000.tar", "shard-000099.tar", "notes.txt"}
    assert "headrace gc" in found["notes.txt"]


def test_the_command_repairs_and_says_what(tmp_path: Path) -> None:
    store = make_photos(tmp_path)
    flip(next((tmp_path / "store").rglob("parts/*/shard-000000.tar")))
    words = ["verify", "photos", "--store", store.uri, "--workers", "1"]
    assert CliRunner().invoke(app, words).exit_code == 1
    done = CliRunner().invoke(app, [*words, "--repair", "--json"])
    assert done.exit_code == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["samples"] == 16
    assert [Path(path).name for path in report["repaired"]] == ["shard-000000.tar"]
    assert CliRunner().invoke(app, words).exit_code == 0
