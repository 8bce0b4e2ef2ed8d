"""What columns cost: told before, and kept in the ledger after."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipelines.costs import estimate
from pipelines.derive import derive
from pipelines.ledger import note_derive, note_ingest, note_run, read_ledger
from storage.fs import Store, open_store
from tests.integration.column_sets import ASKED, DIRECT, VIEW, make_store
from tests.integration.test_ingest import tree_hash
from tests.tiny_encoder import tiny_vit


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store with a small dataset of each modality."""
    return make_store(tmp_path_factory.mktemp("columns"))


@pytest.mark.parametrize("column", [*ASKED, "features"])
def test_costs_are_told_before_and_nothing_is_written(
    store: Store, tmp_path: Path, column: str
) -> None:
    import shutil

    copy = open_store(shutil.copytree(store.uri, tmp_path / "copy"))
    dataset, parameters, *_ = ASKED.get(column, ("image", {"view": VIEW, "norm": "unit"}))
    shutil.rmtree(tmp_path / "copy/datasets" / dataset / "columns", ignore_errors=True)
    given = {"features": tiny_vit()} if column == "features" else {}
    before = tree_hash(tmp_path / "copy")
    asked = {column: parameters}
    cost = estimate(copy, dataset, asked, epochs=50, artefacts=given)[column]
    assert tree_hash(tmp_path / "copy") == before
    report = derive(copy, dataset, asked, DIRECT, artefacts=given)[column]
    assert cost["samples"] == report["computed"]
    assert report["bytes"] == pytest.approx(cost["bytes"], rel=0.5, abs=30_000)
    assert cost["seconds_per_sample"] > 0
    assert cost["advice"].startswith(("store: ", "online: "))
    after = estimate(copy, dataset, asked, artefacts=given)[column]
    assert (after["samples"], after["seconds"], after["bytes"]) == (0, 0, 0)


def test_the_ledger_shows_what_the_second_run_saved(store: Store, tmp_path: Path) -> None:
    import json
    import shutil

    copy = open_store(shutil.copytree(store.uri, tmp_path / "copy"))
    shutil.rmtree(tmp_path / "copy/datasets/video/columns", ignore_errors=True)
    columns = {"flow": {"method": "dis_medium"}, "hog": {"view": {**VIEW, "size": 48}}}
    note_ingest(copy, "video", {"samples": 8, "bytes": 100}, 1.0)
    totals = []
    for run in ("first", "second"):
        began = time.monotonic()
        report = derive(copy, "video", columns, DIRECT)
        note_derive(copy, "video", report, time.monotonic() - began)
        used = {name: made["fingerprint"] for name, made in report.items()}
        record = {"provenance": {"dataset": "video", "columns": used}}
        copy.write(f"runs/{run}/run.json", json.dumps(record).encode())
        totals.append(note_run(copy, run))
        assert note_run(copy, run) == totals[-1]
    first, second = totals
    assert first is not None
    assert second is not None
    assert first["saved"] == 0
    assert second["saved"] == pytest.approx(first["spent"])
    assert second["spent"] < first["spent"]
    ledger = read_ledger(copy)
    assert {line["column"] for line in ledger["columns"]} == {"dataset", "flow", "hog"}
    assert [line["runs"] for line in ledger["columns"]] == [2, 2, 2]
    assert [line["samples"] for line in ledger["columns"]] == [8, 8, 8]
    assert {line["run"]: line["spent"] for line in ledger["runs"]} == {
        "first": first["spent"],
        "second": second["spent"],
    }
    bytes_of_runs = [line["bytes"] for line in sorted(ledger["runs"], key=lambda e: e["run"])]
    assert bytes_of_runs == [sum(line["bytes"] for line in ledger["columns"]), 0]
    assert note_run(copy, "none") is None
