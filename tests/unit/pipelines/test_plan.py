"""The plan of an ingest: cuts, duplicates, retries, and other ingests that come first."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import ingest as ingesting
from pipelines.catalog import read_samples
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.plan import MAX_CHUNK_UNITS, cut_chunks, plan_ingest
from pipelines.verify import verify
from storage.fs import open_store
from storage.snapshots import read_snapshot

SPEC = IngestSpec(modality="image", shard_size=2048, heldout=0.1)
HERE = Executor()


def pictures(folder: Path, seeds: range) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8)
        cv2.imwrite(str(folder / f"{seed:03d}.png"), pixels)
    return folder


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 60))
def test_cuts_cover_the_units_and_give_a_large_one_its_own_chunk(
    sizes: list[int], shard_size: int
) -> None:
    starts = cut_chunks(np.array(sizes, np.int64), shard_size)
    assert starts[0] == 0 and starts[-1] == len(sizes) and (np.diff(starts) > 0).all()
    for begin, end in pairwise(starts):
        assert sum(sizes[begin : end - 1]) < shard_size
        if any(size >= shard_size for size in sizes[begin:end]):
            assert end - begin == 1


def test_tiny_files_are_cut_by_number() -> None:
    starts = cut_chunks(np.ones(3 * MAX_CHUNK_UNITS, np.int64), 2**30)
    assert np.diff(starts).tolist() == [MAX_CHUNK_UNITS] * 3


def test_a_plan_is_the_same_however_it_is_made(tmp_path: Path) -> None:
    raw = pictures(tmp_path / "raw", range(12))
    store = open_store(tmp_path / "store")
    plans = [
        plan_ingest(store, [str(raw)], "photos", SPEC, executor)
        for executor in (HERE, Executor(workers=3), HERE)
    ]
    assert len({plan.part for plan in plans}) == 1
    assert plans[0].chunk(1) == plans[1].chunk(1)


@pytest.mark.parametrize(
    "rows", ["path,kind,site\n{},b,1\n", "path,kind,site\n{},a,2\n"], ids=["label", "metadata"]
)
def test_what_a_list_says_of_a_file_is_part_of_the_plan(tmp_path: Path, rows: str) -> None:
    """A killed ingest must not take up chunks that were written for another list."""
    raw = pictures(tmp_path / "raw", range(1))
    store, spec = open_store(tmp_path / "store"), replace(SPEC, labels="kind")
    parts = set()
    for text in ("path,kind,site\n{},a,1\n", rows):
        (tmp_path / "list.csv").write_text(text.format(raw / "000.png"))
        parts.add(plan_ingest(store, [str(tmp_path / "list.csv")], "photos", spec, HERE).part)
    assert len(parts) == 2


def test_rejects_are_taken_again_and_only_they(tmp_path: Path) -> None:
    raw = pictures(tmp_path / "raw", range(6))
    sound = (raw / "003.png").read_bytes()
    (raw / "003.png").write_bytes(sound[:40])
    (raw / "004.png").write_bytes(b"text")
    store = open_store(tmp_path / "store")
    first = ingest(store, [str(raw)], "photos", SPEC, HERE)
    assert (first["written"], first["rejects"]) == (4, 2)

    again = ingest(store, [], "photos", SPEC, HERE, retry_rejects=True)
    assert (again["inputs"], again["rejects"], again["snapshot"]) == (2, 2, 1)
    assert len(store.folders("datasets/photos/parts")) == 1

    (raw / "003.png").write_bytes(sound)
    pictures(raw, range(6, 8))  # new files are not what was asked for
    mended = ingest(store, [], "photos", SPEC, HERE, retry_rejects=True)
    assert (mended["inputs"], mended["written"], mended["rejects"]) == (2, 1, 1)
    assert mended["snapshot"] == 2
    last = ingest(store, [], "photos", SPEC, HERE, retry_rejects=True)
    assert (last["inputs"], last["rejects"], last["snapshot"]) == (1, 1, 2)
    assert ingest(store, [str(raw)], "photos", SPEC, HERE)["written"] == 2


def test_content_that_another_ingest_took_meanwhile_is_not_taken_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = pictures(tmp_path / "left", range(8))
    right = pictures(tmp_path / "right", range(4, 12))
    store = open_store(tmp_path / "store")
    real, others = ingesting.write_tables, []

    def slow(*arguments: object) -> object:
        if not others:
            others.append(1)
            others.append(ingest(store, [str(right)], "photos", SPEC, HERE))
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ingesting, "write_tables", slow)
    report = ingest(store, [str(left)], "photos", SPEC, HERE)
    assert (report["written"], report["duplicates"], report["snapshot"]) == (4, 4, 2)
    rows = read_samples(store, "photos", 99)
    assert len({row["content_hash"] for row in rows}) == len(rows) == 12
    snapshot = read_snapshot(store, "photos")
    assert snapshot is not None
    assert set(store.folders("datasets/photos/parts")) == {p.part for p in snapshot.parts}
    assert verify(store, "photos")["damaged"] == []
