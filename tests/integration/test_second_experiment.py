"""The second experiment on the same data costs next to nothing, and the ledger says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.command import app
from tests.integration.raw import make_videos

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("data.dataset=clips", "steps=2", "batch=2")
GOAL = 0.01


def headrace(*words: str, store: Path) -> Any:
    """Run the command without Prefect and Ray; returns its JSON."""
    done = CliRunner().invoke(app, [*words, "--store", str(store), "--json"])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store on which two recipes ran that share dataset and flow."""
    folder = tmp_path_factory.mktemp("second")
    raw, store = make_videos(folder / "raw", 24, edge=96), folder / "store"
    words = ("--modality", "video", "--dataset", "clips", "--frames", "16", "--direct")
    headrace("ingest", str(raw), *words, store=store)
    text = (ROOT / "recipes" / "mgmae_tiny.yaml").read_text()
    other = folder / "mgm.yaml"
    other.write_text(text.replace("kind: mgmae", "kind: mgm").replace("name: mgmae", "name: mgm"))
    for run, recipe in (("first", "mgmae_tiny"), ("second", str(other))):
        headrace("derive", "clips", "--for", recipe, *SMALL, "--direct", store=store)
        headrace("pretrain", recipe, *SMALL, "--run", run, "--direct", store=store)
    return store


def test_its_data_cost_at_most_a_hundredth_of_the_first(store: Path) -> None:
    ledger = headrace("ls", store=store)["ledger"]
    first, second = (next(e for e in ledger["runs"] if e["run"] == n) for n in ("first", "second"))
    print(f"data work: first {first['spent']:.3f} s, second {second['spent']:.4f} s")
    assert 0 < second["spent"] <= GOAL * first["spent"]
    assert second["saved"] == pytest.approx(first["spent"])
    assert first["saved"] == 0
    lines = {line["column"]: line for line in ledger["columns"]}
    assert set(lines) == {"dataset", "flow"}
    assert all(line["runs"] == 2 and line["bytes"] > 0 for line in lines.values())


def test_list_and_reports_show_the_ledger(store: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    for words in (("ls",), ("ls", "clips"), ("ls", "second")):
        assert "saved by reuse" in runner.invoke(app, [*words, "--store", str(store)]).stdout
    assert len(headrace("ls", "second", store=store)["ledger"]["runs"]) == 1
    for name in ("clips", "second"):
        html = tmp_path / f"{name}.html"
        headrace("report", name, "--output", str(html), store=store)
        assert "saved by reuse" in html.read_text()


def test_verify_and_gc_leave_the_ledger_alone(store: Path) -> None:
    def notes() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in (store / "ledger").rglob("*.json")}

    before = notes()
    assert before
    assert headrace("verify", "clips", store=store)["damaged"] == []
    assert headrace("gc", store=store)["removed"] == 0
    assert notes() == before


def test_a_plan_tells_the_cost_and_writes_nothing(store: Path) -> None:
    def everything() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in store.rglob("*") if p.is_file()}

    before = everything()
    words = ("derive", "clips", "hog", "flow", "view.size=48", "--plan")
    costs = headrace(*words, "--epochs", "50", store=store)
    text = CliRunner().invoke(app, [*words, "--store", str(store)]).stdout
    assert everything() == before
    assert (costs["hog"]["samples"], costs["flow"]["samples"]) == (24, 0)
    assert costs["hog"]["advice"].startswith(("store: ", "online: "))
    for said in ("24 samples to compute", "nothing to do", "a sample: ", "storing pays from"):
        assert said in text
    for recipe in ("mgmae_tiny",):
        words = ("derive", "clips", "--for", recipe, *SMALL, "--plan")
        assert headrace(*words, store=store)["flow"]["samples"] == 0


def test_features_of_a_run_by_its_name(store: Path) -> None:
    small = ("data.dataset=clips", "view.size=48", "steps=1", "batch=2")
    headrace("pretrain", "videomae_tiny", *small, "--run", "teacher", "--direct", store=store)
    words = ("clips", "features", "weights=run:teacher", "view.size=48")
    cost = headrace("derive", *words, "--plan", store=store)["features"]
    made = headrace("derive", *words, "--direct", store=store)["features"]
    assert (made["computed"], made["fingerprint"]) == (24, cost["fingerprint"])
    assert len(made["parameters"]["weights"]) == 64
    again = headrace("derive", *words, "--direct", store=store)["features"]
    assert (again["computed"], again["reused"], again["workers"]) == (0, 24, [])
    parts = headrace("why", *words, store=store)["parts"]
    assert [part["state"] for part in parts] == ["complete"]
    wrong = ["derive", "clips", "features", "weights=run:nobody", "--direct"]
    refused = CliRunner().invoke(app, [*wrong, "--store", str(store)])
    assert refused.exit_code == 1
    assert "run nobody: there is none" in refused.stderr
