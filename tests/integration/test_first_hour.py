"""What surprised someone in their first hour, once each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.command import app
from tests.integration.raw import make_fields, make_images


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def headrace(*words: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout) if done.stdout else {}


def ingest(*words: str, modality: str = "image", code: int = 0) -> Any:
    fixed = ("--modality", modality, "--dataset", "data", "--direct", "--workers", "1")
    return headrace("ingest", *words, *fixed, code=code)


def test_one_folder_under_several_names_is_one(place: Path) -> None:
    make_images(place / "photos", 4)
    assert ingest("./photos")["written"] == 4
    for name in ("photos", "photos/", "./photos/../photos", "photos/coarse/.."):
        again = ingest(name)
        assert (again["skipped"], again["duplicates"]) == (4, 0)
    assert ingest("photos", "./photos")["inputs"] == 4


def test_the_folder_one_is_in_is_a_source(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_STORE", str(place / "store"))
    monkeypatch.chdir(make_images(place / "photos", 4) / "fine")
    assert ingest(".")["written"] == 2
    assert ingest("..")["inputs"] == 4


def test_a_pattern_that_is_mended_leaves_no_rejects_in_the_books(place: Path) -> None:
    make_fields(place / "plates", wells=1)
    ingest("plates", "--pattern", "nothing(?P<channel>x)", modality="microscopy", code=3)
    text = CliRunner().invoke(
        app,
        [
            *["ingest", "plates", "--modality", "microscopy", "--dataset", "data"],
            "--direct",
            "--pattern",
            "_(?P<channel>[A-Z]+)[.]tif",
        ],
    )
    assert "--retry-rejects" in text.stdout
    pattern = r"(?P<well>B\d\d)_s(?P<site>\d)_w\d_(?P<channel>\w+)\.tif"
    ingest("--retry-rejects", "--pattern", pattern, modality="microscopy")
    (about,) = headrace("ls", "data")["datasets"]
    books = [about[name] for name in ("inputs", "written", "duplicates", "rejects")]
    assert books == [6, 6, 0, 0]


def test_a_report_of_nothing_says_what_is_missing(place: Path) -> None:
    make_images(place / "photos", 4)
    ingest("photos")
    done = CliRunner().invoke(app, ["report", "phtos"])
    assert done.exit_code == 1
    assert "no dataset and no run 'phtos'" in done.stderr
