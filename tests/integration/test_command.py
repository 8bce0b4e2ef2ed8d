"""The command as a user meets it: exit codes, JSON, one clear error a mistake, real engines."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.command import app
from storage.fs import open_store
from tests.integration.raw import make_images, make_videos
from tests.integration.test_ingest import tree_hash


def headrace(*words: str, store: Path) -> Any:
    """Run the command in this process."""
    return CliRunner().invoke(app, [*words, "--store", str(store)])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A store with one dataset of twelve pictures and one reject."""
    raw = make_images(tmp_path / "raw")
    (raw / "coarse" / "text.jpg").write_text("not a picture")
    words = ("--modality", "image", "--dataset", "photos", "--labels", "parent", "--direct")
    done = headrace("ingest", str(raw), *words, "--max-reject", "0.2", store=tmp_path / "store")
    assert done.exit_code == 0, done.stderr
    return tmp_path / "store"


def test_json_holds_what_scripts_rely_on(photos: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    words = ("--modality", "image", "--dataset", "photos", "--labels", "parent", "--direct")
    again = headrace("ingest", str(raw), *words, "--json", store=photos)
    report = json.loads(again.stdout)
    assert {"dataset", "snapshot", "fingerprint", "inputs", "written", "samples"} <= report.keys()
    assert {"duplicates", "rejects", "skipped", "shards", "bytes"} <= report.keys()
    assert (report["inputs"], report["skipped"]) == (13, 13)
    derived = json.loads(
        headrace(
            "derive", "photos", "hog", "view.size=32", "--direct", "--json", store=photos
        ).stdout
    )
    assert {"fingerprint", "computed", "reused", "seconds", "bytes"} <= derived["hog"].keys()
    listed = json.loads(headrace("ls", "--json", store=photos).stdout)
    assert {"datasets", "columns", "runs"} <= listed.keys()
    verified = json.loads(headrace("verify", "photos", "--json", store=photos).stdout)
    assert verified == {"samples": 12, "damaged": [], "repaired": []}


def test_too_many_rejects_end_with_3_and_keep_the_rest(tmp_path: Path) -> None:
    raw = make_images(tmp_path / "raw", count=3)
    (raw / "text.jpg").write_text("not a picture")
    words = ("--modality", "image", "--dataset", "photos", "--direct")
    done = headrace("ingest", str(raw), *words, store=tmp_path / "store")
    assert done.exit_code == 3
    assert "1 of 4 files were refused" in done.stderr
    rejects = headrace("ls", "photos", "--rejects", store=tmp_path / "store")
    assert "unrecognised_format" in rejects.stdout


def test_a_plan_prints_the_command_that_does_it(tmp_path: Path) -> None:
    raw = make_images(tmp_path / "my photos")
    (raw / "coarse" / "text.jpg").write_text("not a picture")
    words = ("plan", str(raw), "--modality", "image", "--dataset", "photos", "--resize", "24")
    done = headrace(*words, store=tmp_path / "store")
    assert done.exit_code == 0, done.stderr
    assert "13 files" in done.stdout and "12 samples" in done.stdout
    assert "bytes a sample" in done.stdout
    assert f"unrecognised_format: {raw}/coarse/text.jpg" in done.stdout
    assert not (tmp_path / "store").exists()
    said = shlex.split(done.stdout.splitlines()[-1])
    assert said[:2] == ["headrace", "ingest"]
    ingested = CliRunner().invoke(app, [*said[1:], "--direct", "--max-reject", "0.2"])
    assert ingested.exit_code == 0, ingested.stderr
    report = json.loads(headrace(*words, "--json", store=tmp_path / "store").stdout)
    assert {"files", "samples", "shards", "bytes", "seconds", "rejects"} <= report.keys()


def test_ingest_and_ls_tell_splits_outcomes_and_rejects_by_class(tmp_path: Path) -> None:
    raw, store = make_images(tmp_path / "raw"), tmp_path / "store"
    (raw / "coarse" / "text.jpg").write_text("not a picture")
    (raw / "again.jpg").write_bytes((raw / "fine" / "001.jpg").read_bytes())
    words = ("ingest", str(raw), "--modality", "image", "--dataset", "photos", "--direct")
    done = headrace(*words, "--heldout", "0.3", "--max-reject", "1", store=store)
    listed = json.loads(headrace("ls", "photos", "--json", store=store).stdout)["datasets"][0]
    train, heldout = (listed["splits"][name] for name in ("train", "heldout"))
    assert train + heldout == 12
    assert listed["groups"] == listed["splits"]
    split = f"{train} samples of {train} groups to train, {heldout} samples of {heldout} groups"
    for text in (done.stdout, headrace("ls", "photos", store=store).stdout):
        assert f"split by group: {split} held out" in text
    outcomes = json.loads(headrace("ls", "photos", "--outcomes", "--json", store=store).stdout)
    assert outcomes["totals"] == {"written": 12, "duplicate": 1, "rejected": 1}
    assert len(outcomes["outcomes"]) == 14
    rejects = headrace("ls", "photos", "--rejects", store=store).stdout
    assert rejects.index("unrecognised_format") < rejects.index("text.jpg")


def test_a_reject_that_was_mended_is_taken_by_retry_alone(tmp_path: Path) -> None:
    raw, store = make_images(tmp_path / "raw", count=4), tmp_path / "store"
    mended = raw / "coarse" / "text.jpg"
    mended.write_text("not a picture")
    words = ("ingest", "--modality", "image", "--dataset", "photos", "--direct", "--json")
    assert headrace(*words, str(raw), "--max-reject", "1", store=store).exit_code == 0
    make_images(tmp_path / "other", count=6)
    mended.write_bytes((tmp_path / "other" / "fine" / "005.jpg").read_bytes())
    (raw / "new.jpg").write_bytes((tmp_path / "other" / "coarse" / "004.jpg").read_bytes())
    again = json.loads(headrace(*words, "--retry-rejects", store=store).stdout)
    assert (again["inputs"], again["written"], again["samples"]) == (1, 1, 1)
    assert "no rejects" in headrace("ls", "photos", "--rejects", store=store).stdout


def test_gc_says_what_it_removes(photos: Path) -> None:
    left = photos / "datasets" / "photos" / "parts" / "0123456789abcdef" / "shard-000000.tar"
    left.parent.mkdir()
    left.write_bytes(b"12345")
    dry = headrace("gc", "--dry-run", store=photos)
    assert "would remove 1 files" in dry.stdout and left.exists()
    report = json.loads(headrace("gc", "--json", store=photos).stdout)
    assert (report["removed"], report["bytes"], left.exists()) == (1, 5, False)
    assert report["paths"] == ["datasets/photos/parts/0123456789abcdef/shard-000000.tar"]


def test_a_stale_column_is_refused_with_the_command_that_mends_it(photos: Path) -> None:
    words = ("pretrain", "maskfeat_image_tiny", "data.dataset=photos", "batch=4", "--direct")
    done = headrace(*words, store=photos)
    assert done.exit_code == 1
    assert "headrace derive photos hog cell=8" in done.stderr
    mend = done.stderr.split("Run '")[1].split("'")[0].split()[1:]
    assert headrace(*mend, "--direct", store=photos).exit_code == 0
    again = headrace(*words, "steps=2", "--run", "now", store=photos)
    assert again.exit_code == 0, again.stderr


def test_damage_ends_with_1_and_names_the_sample(photos: Path) -> None:
    shard = next(photos.rglob("shard-000000.tar"))
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    done = headrace("verify", "photos", store=photos)
    assert done.exit_code == 1
    assert "1 damaged" in done.stdout


def in_a_process(words: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run the command as a program of its own; returns its JSON."""
    command = [sys.executable, "-m", "flows", *words, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.ray
@pytest.mark.prefect
def test_flows_run_in_prefect_on_ray_and_direct_writes_the_same_bytes(tmp_path: Path) -> None:
    raw = make_videos(tmp_path / "raw", count=4)
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect")}
    reports = []
    stages = (
        ["ingest", str(raw), "--modality", "video", "--dataset", "clips", "--shard-size", "4096"],
        ["derive", "clips", "motion"],
    )
    for number, direct in enumerate(([], ["--direct"])):
        for words in stages:
            store = ["--store", str(tmp_path / f"store{number}")]
            reports.append(in_a_process([*words, *store, *direct], environment))
    assert tree_hash(tmp_path / "store0") == tree_hash(tmp_path / "store1")
    assert len(reports[0]["workers"]) >= 1
    assert not set(reports[0]["workers"]) & set(reports[2]["workers"])
    with sqlite3.connect(tmp_path / "prefect" / "prefect.db") as database:
        states = dict(
            database.execute(
                "SELECT f.name, r.state_type FROM flow_run r JOIN flow f ON f.id = r.flow_id"
            )
        )
        artifacts = {key for (key,) in database.execute("SELECT key FROM artifact")}
    assert states == {"ingest": "COMPLETED", "derive": "COMPLETED"}
    assert {"books-clips", "columns-clips"} <= artifacts


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.prefect
def test_demo_walks_the_road_and_does_nothing_twice(tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect")}
    words = ["demo", "--store", str(tmp_path / "store")]
    reports = [in_a_process(words, environment) for _ in range(2)]
    assert len(reports[0]["datasets"]) == len(reports[0]["runs"]) == 4
    assert reports[0]["worked"] > 0
    assert reports[1]["worked"] == 0
    html = Path(reports[0]["report"]).read_text()
    assert "https://" not in html.replace("http://www.w3.org", "")
    assert open_store(tmp_path / "store").exists("demo.html")
