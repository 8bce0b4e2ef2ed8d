"""`headrace study`: one command, one report, and nothing done twice."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flows.command import app
from pipelines.ledger import read_ledger
from storage.fs import open_store
from tests.faults.zygote import ROOT
from tests.integration.raw import make_videos
from tests.integration.shared_sets import DATA

SETTINGS = {"steps": 2, "batch": 4, "view.size": 64, "model.depth": 1, "heldout_every": 2}
MASKS = {
    "random-tube": {"mask.kind": "tube"},
    "mgmae": {"mask.kind": "mgmae", "mask.ratio": 0.75},
    "mgm": {"mask.kind": "mgm", "mask.ratio": 0.75},
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with labelled videos and a study of them, in which the command runs."""
    for label in ("left", "right"):
        make_videos(tmp_path / "raw" / label, count=4, frames=16 if label == "left" else 17)
    plan: dict[str, Any] = {
        "name": "masks",
        "dataset": "clips",
        "ingest": {"source": "raw", "modality": "video", "options": {"labels": "parent"}},
        "recipe": "mgmae_tiny",
        "settings": SETTINGS,
        "runs": MASKS,
        "probe": {"kind": "knn"},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def study(*words: str) -> Any:
    done = CliRunner().invoke(app, ["study", "study.yaml", *words, "--store", "store"])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout) if "--json" in words else done.stdout


def test_three_masks_one_report_and_the_second_time_all_is_found(place: Path) -> None:
    first = study("--direct", "--json")
    assert [row["name"] for row in first["runs"]] == list(MASKS)
    assert [row["reused"] for row in first["runs"]] == [False] * 3
    assert [(c["column"], c["computed"]) for c in first["columns"]] == [("flow", 8)]
    assert all(row["probe"]["untrained_accuracy"] is not None for row in first["runs"])
    html = (place / first["report"]).read_text()
    for row in first["runs"]:
        assert row["run"] in html and f"{row['name']} " in html
    assert "<svg" in html and 'src="http' not in html

    again = study("--direct", "--json")
    assert again["worked"] == 0
    assert [(c["computed"], c["reused"]) for c in again["columns"]] == [(0, True)]
    assert [row["reused"] for row in again["runs"]] == [True] * 3
    assert [row["loss"] for row in again["runs"]] == [row["loss"] for row in first["runs"]]
    ledger = read_ledger(open_store("store"))
    flow = next(line for line in ledger["columns"] if line["column"] == "flow")
    assert (flow["samples"], flow["runs"]) == (8, 3)
    assert flow["saved"] > 0
    said = study("--direct")
    assert "reused 1 of 1 columns: flow" in said
    assert "reused 3 of 3 runs" in said and "nothing to do" in said


@pytest.mark.slow
def test_new_videos_and_settings_give_new_runs_beside_the_old(place: Path) -> None:
    before = study("--direct", "--json")
    make_videos(place / "raw" / "left", count=6)
    plan = yaml.safe_load((place / "study.yaml").read_text())
    plan["runs"] = {"mgmae": MASKS["mgmae"]}
    (place / "study.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    after = study("--direct", "--json")
    assert (before["snapshot"], after["snapshot"]) == (1, 2)
    assert [c["computed"] for c in after["columns"]] == [2]
    assert after["runs"][0]["run"] not in {row["run"] for row in before["runs"]}
    assert not after["runs"][0]["reused"]


def test_a_dry_run_names_the_runs_and_writes_nothing(place: Path) -> None:
    report = study("--dry-run", "--json")
    assert [row["columns"].keys() for row in report["runs"]] == [{"flow"}] * 3
    assert not (place / "store").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"setings": {}}, "setings is unknown; did you mean settings?"),
        ({"runs": {}}, "runs"),
        ({"recipe": "mgmae_tini"}, "mgmae_tini"),
        ({"runs": {"a": {"mask.kind": "tubes"}}}, "tubes"),
        ({"ingest": {"source": "raw", "modality": "sound"}}, "sound"),
        ({"ingest": {"source": "raw", "modality": "video", "options": {"resise": 1}}}, "resize?"),
        ({"name": "a/b"}, "cannot name a folder"),
    ],
)
def test_a_mistake_is_told_before_anything_is_done(
    place: Path, change: dict[str, Any], said: str
) -> None:
    plan = yaml.safe_load((place / "study.yaml").read_text())
    (place / "study.yaml").write_text(yaml.safe_dump({**plan, **change}, sort_keys=False))
    words = ["study", "study.yaml", "--direct", "--store", "store"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert said in done.stderr and "Traceback" not in done.stderr
    assert not (place / "store" / "datasets").exists()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.prefect
def test_the_same_study_in_prefect_on_ray(
    place: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.integration.test_command import in_a_process

    home = tmp_path_factory.mktemp("prefect")
    words = ["study", str(place / "study.yaml"), "--store", str(place / "flows")]

    monkeypatch.undo()
    plan = yaml.safe_load((place / "study.yaml").read_text())
    plan["ingest"]["source"] = str(place / "raw")
    (place / "study.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    words += ["--output", str(place / "flows.html")]
    environment = {**os.environ, "PREFECT_HOME": str(home)}
    report = in_a_process(words, environment)
    assert [row["reused"] for row in report["runs"]] == [False] * 3
    assert Path(report["report"]).exists()
    again = in_a_process(words, environment)
    assert (again["worked"], [row["reused"] for row in again["columns"]]) == (0, [True])


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.prefect
@pytest.mark.timeout(2400)
@pytest.mark.skipif(not (DATA / "videos").is_dir(), reason="the shared raw sets are not here")
def test_the_example_on_real_videos_finds_all_of_it_again(tmp_path: Path) -> None:
    """The example as it is, but for fewer steps: one command, one report, and from the second time
    on every column comes from the ledger."""
    from tests.integration.test_command import in_a_process

    plan = yaml.safe_load((ROOT / "examples" / "study_masks.yaml").read_text())
    plan["ingest"]["source"] = str(DATA / "videos")
    plan["settings"] |= {"steps": 4, "heldout_every": 4}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    words = ["study", str(tmp_path / "study.yaml"), "--store", str(tmp_path / "store")]
    words += ["--output", str(tmp_path / "masks.html")]
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect")}
    first, again = in_a_process(words, environment), in_a_process(words, environment)
    assert [row["name"] for row in first["runs"]] == list(MASKS)
    assert not any(row["reused"] for row in (*first["columns"], *first["runs"]))
    assert all(row["reused"] for row in (*again["columns"], *again["runs"]))
    assert again["worked"] == 0
    line = next(c for c in read_ledger(open_store(tmp_path / "store"))["columns"])
    assert (line["column"], line["runs"]) == ("flow", 3) and line["saved"] > 0
    assert (tmp_path / "masks.html").stat().st_size < 10_000_000
