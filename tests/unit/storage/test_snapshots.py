"""Snapshots: commits that race, damage that is found, names that are checked."""

from __future__ import annotations

import json
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from storage import snapshots
from storage.fs import Store, open_store
from storage.snapshots import (
    PartEntry,
    SnapshotError,
    check_name,
    commit_part,
    list_datasets,
    list_snapshots,
    part_path,
    read_snapshot,
    shard_name,
    snapshot_path,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


def part(name: str, **changes: Any) -> PartEntry:
    entry: dict[str, Any] = {
        "part": name,
        "samples": 3,
        "shards": [{"name": shard_name(0), "samples": 3, "bytes": 10240, "sha256": "ab" * 32}],
        "bytes": 10240,
        "inputs": 5,
        "written": 3,
        "duplicates": 1,
        "rejects": 1,
        "manifest_sha256": "cd" * 32,
        "rejects_sha256": "ef" * 32,
        "inputs_sha256": "01" * 32,
        "records": {"shard-000000.json": "23" * 32},
        "spec": {"resize": None},
        "stats": {"mean": [0.1, 0.25], "größe": {"10x9": 2}},
    }
    return PartEntry(**{**entry, **changes})


def test_parts_are_added_in_order(store: Store) -> None:
    assert read_snapshot(store, "cells") is None
    assert list_datasets(store) == []
    first = commit_part(store, "cells", part("a"), {"heldout_below": "5"})
    second = commit_part(store, "cells", part("b"), {"heldout_below": "9"})
    assert (first.number, second.number) == (1, 2)
    assert [entry.part for entry in second.parts] == ["a", "b"]
    assert second.settings == {"heldout_below": "5"}
    assert read_snapshot(store, "cells") == second
    assert read_snapshot(store, "cells", 1) == first
    assert read_snapshot(store, "cells", 3) is None
    assert len({first.fingerprint, second.fingerprint}) == 2
    assert list_datasets(store) == ["cells"]
    assert list_snapshots(store, "cells") == [1, 2]


def test_a_part_is_added_once(store: Store) -> None:
    first = commit_part(store, "cells", part("a"), {})
    assert commit_part(store, "cells", part("a"), {}) == first
    with pytest.raises(SnapshotError, match=r"part a with manifest cdcd.* now 1111.*other bytes"):
        commit_part(store, "cells", part("a", manifest_sha256="11" * 32), {})
    assert list_snapshots(store, "cells") == [1]


def _commit_many(arguments: tuple[str, str]) -> None:
    uri, writer = arguments
    for i in range(8):
        commit_part(Store(uri), "cells", part(f"{writer}{i}"), {})


def test_no_commit_of_two_processes_is_lost(store: Store) -> None:
    with get_context("fork").Pool(2) as pool:
        pool.map(_commit_many, [(store.uri, "x"), (store.uri, "y")], chunksize=1)
    last = read_snapshot(store, "cells")
    assert last is not None
    assert last.number == 16
    assert sorted(p.part for p in last.parts) == sorted(f"{w}{i}" for w in "xy" for i in range(8))
    for number in range(1, 16):
        earlier = read_snapshot(store, "cells", number)
        assert earlier is not None
        assert earlier.parts == last.parts[:number]


def test_a_commit_that_never_wins_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "put_if_absent", lambda *_: False)
    monkeypatch.setattr(snapshots, "COMMIT_SECONDS", 0.1)
    with pytest.raises(SnapshotError, match="cells: snapshot 1 could not be committed"):
        commit_part(store, "cells", part("a"), {})


def test_any_changed_byte_of_a_snapshot_is_found(store: Store, tmp_path: Path) -> None:
    commit_part(store, "cells", part("a"), {"x": 1})
    place = tmp_path / snapshot_path("cells", 1)
    good = place.read_bytes()
    for position in range(0, len(good), 3):
        for damaged in (
            good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :],
            good[:position],
            good[:position] + b" " + good[position:],
        ):
            place.write_bytes(damaged)
            with pytest.raises(SnapshotError, match=r"snapshots/000001\.json: .*(restore|Update)"):
                read_snapshot(store, "cells")


def test_a_snapshot_that_was_moved_is_refused(store: Store) -> None:
    commit_part(store, "cells", part("a"), {})
    data = store.read(snapshot_path("cells", 1))
    store.write(snapshot_path("cells", 7), data)
    store.write(snapshot_path("other", 1), data)
    for dataset in ("cells", "other"):
        with pytest.raises(SnapshotError, match="holds snapshot 1 of cells"):
            read_snapshot(store, dataset)


@pytest.mark.parametrize(
    ("number", "told"),
    [(9, r"this version reads 2\. Update headrace"), (1, "Ingest into another dataset")],
)
def test_another_format_is_refused_with_the_reason(store: Store, number: int, told: str) -> None:
    commit_part(store, "cells", part("a"), {})
    content = json.loads(store.read(snapshot_path("cells", 1)))
    store.write(snapshot_path("cells", 1), json.dumps({**content, "format": number}).encode())
    with pytest.raises(SnapshotError, match=f"has format {number}, .*{told}"):
        read_snapshot(store, "cells")


def test_other_files_beside_snapshots_are_no_snapshots(store: Store) -> None:
    store.write("datasets/cells/snapshots/notes.txt", b"")
    store.write("datasets/cells/snapshots/old/000009.txt", b"")
    store.write("datasets/.hidden/snapshots/000001.json", b"")
    assert read_snapshot(store, "cells") is None
    assert list_datasets(store) == []


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "a/b", "a b", "ä", "a" * 101, "a\n"])
def test_names_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a folder"):
        check_name(name)


def test_paths() -> None:
    assert part_path("cells", "p1") == "datasets/cells/parts/p1"
    assert (shard_name(7), shard_name(1234567)) == ("shard-000007.tar", "shard-1234567.tar")
