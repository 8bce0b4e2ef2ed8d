"""Every broken or awkward file gets the outcome that is stated for it, through the command (G1)."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import tifffile

from preprocessing.errors import REASON_CLASSES
from tests.integration.expected_fields import ENTRY_FIELDS, check_accepted
from tests.integration.outcomes import Outcome, ingest_all, run_with_peak
from tests.integration.raw import make_images, make_stacks, make_tiles, make_videos

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
BROKEN = SHARED / "broken"
BOOK: dict[str, Any] = (
    json.loads((BROKEN / "expected.json").read_text()) if BROKEN.is_dir() else {"files": {}}
)
FOLDERS = {name: entry for name, entry in BOOK["files"].items() if name.endswith("/")}
FIELDS = r"(?P<plate>[^/]+)/(?P<well>[A-P]\d+)_01_\d_(?P<site>\d)_(?P<channel>[A-Z]+)_001\.tif$"

GOOD = {"image": make_images, "video": make_videos, "microscopy": make_stacks}
GOOD["satellite"] = make_tiles

needs_shared = pytest.mark.skipif(not BROKEN.is_dir(), reason="../shared/data is not there")


def entries_of(modality: str) -> dict[str, dict[str, Any]]:
    """The files of one modality; folders are fields of several files and have their own test."""
    files = BOOK["files"].items()
    return {n: e for n, e in files if e["modality"] == modality and n not in FOLDERS}


def run_beside_good_files(tmp_path: Path, modality: str, *words: str) -> tuple[Path, Outcome]:
    """Ingest all entries of a modality in one run with good files; returns their folder too."""
    raw = tmp_path / "raw"
    GOOD[modality](raw / "good", count=5)
    for name in entries_of(modality):
        shutil.copy(BROKEN / name, raw / name)
    outcome = ingest_all(tmp_path / "store", modality, str(raw), *words)
    good = [uri for uri in outcome.samples if "/good/" in uri]
    assert len(good) == 5
    assert outcome.report["inputs"] == 5 + len(entries_of(modality))
    return raw, outcome


def check_entry(name: str, uri: str, outcome: Outcome) -> str:
    """Hold one entry against the outcome; returns what became of it."""
    entry = BOOK["files"][name]
    assert set(entry) <= ENTRY_FIELDS, f"{name}: expected.json has new fields; write their checks"
    assert (uri in outcome.rejects) != (uri in outcome.samples), f"{name}: lost or booked twice"
    raw = (BROKEN / name).read_bytes()
    if uri in outcome.rejects:
        assert "reject" in entry["action"], outcome.rejects[uri]
        assert outcome.rejects[uri]["reason_class"] == entry["reason_class"], outcome.rejects[uri]
        assert outcome.rejects[uri]["detail"]
    else:
        assert "accept" in entry["action"], f"{name}: written, wanted {entry['action']}"
        check_accepted(entry["modality"], entry.get("decoded", {}), raw, outcome.samples[uri])
    if "header_shape" in entry:
        check_header(entry, raw, outcome.rejects[uri]["detail"])
    return "rejected" if uri in outcome.rejects else "written"


def check_header(entry: dict[str, Any], raw: bytes, detail: str) -> None:
    """A refused file whose header promises pixels: it was refused for what lies behind it."""
    shape = entry["header_shape"]
    if entry["reason_class"] == "too_large":
        assert f"{shape[1]}x{shape[0]}" in detail
        return
    with tifffile.TiffFile(io.BytesIO(raw)) as tiff:
        series = tiff.series[0].shape
    assert sorted(series) == sorted(shape)


@needs_shared
@pytest.mark.parametrize("modality", ["image", "video", "microscopy", "satellite"])
def test_every_file_gets_its_outcome_in_one_run_with_good_ones(
    modality: str, tmp_path: Path
) -> None:
    words = ("--frames", "1") if modality == "video" else ()
    raw, outcome = run_beside_good_files(tmp_path, modality, *words)
    made = {name: check_entry(name, f"{raw}/{name}", outcome) for name in entries_of(modality)}
    assert len(made) == len(outcome.rejects) + len(outcome.samples) - 5


@needs_shared
def test_videos_get_their_outcome_at_the_default_clip_length(tmp_path: Path) -> None:
    raw, outcome = run_beside_good_files(tmp_path, "video")
    for name, entry in entries_of("video").items():
        uri = f"{raw}/{name}"
        if uri in outcome.rejects:
            assert "reject" in entry["action"], outcome.rejects[uri]
            assert outcome.rejects[uri]["reason_class"] == entry["reason_class"]
        else:
            assert "accept" in entry["action"], name
            assert {s.row["shape"][0] for s in outcome.samples[uri]} == {16}
            ids = [s.metadata["frames"] for s in outcome.samples[uri]]
            assert ids[0] == sorted(ids[0]), "a short video stands still at its end, and says so"


@needs_shared
def test_bad_fields_are_refused_whole_beside_good_ones(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(SHARED / "microscopy" / "nf1_plate2", raw / "nf1_plate2")
    for name in FOLDERS:
        shutil.copytree(BROKEN / name, raw / name)
    outcome = ingest_all(tmp_path / "store", "microscopy", str(raw), "--pattern", FIELDS)
    for name, entry in FOLDERS.items():
        assert set(entry) <= ENTRY_FIELDS and entry["action"] == "reject"
        for file in sorted((raw / name).iterdir()):
            assert outcome.rejects.pop(str(file))["reason_class"] == entry["reason_class"]
    assert not outcome.rejects
    assert len(outcome.samples) == 4
    for stored in (sample for samples in outcome.samples.values() for sample in samples):
        assert stored.metadata["channels"] == ["DAPI", "GFP", "RFP"]
        assert stored.array().shape[0] == 3


def test_every_entry_of_the_book_is_covered() -> None:
    if not BOOK["files"]:
        pytest.skip("../shared/data is not there")
    modalities = {"image", "video", "microscopy", "satellite"}
    assert {entry["modality"] for entry in BOOK["files"].values()} <= modalities
    assert set(FOLDERS) == {"fov_mismatched_shapes/", "fov_missing_channel/"}
    assert set(BOOK["reason_classes"]) <= set(REASON_CLASSES)


@needs_shared
def test_a_decompression_bomb_costs_no_memory(tmp_path: Path) -> None:
    name = next(n for n, e in BOOK["files"].items() if "max_extra_memory_mb" in e)
    raw = make_images(tmp_path / "raw", count=3)
    words = ("--modality", "image", "--dataset", "set", "--direct", "--workers", "1")
    place = ("--store", str(tmp_path / "a"))
    code, said, before = run_with_peak("ingest", str(raw), *words, *place)
    assert code == 0, said
    shutil.copy(BROKEN / name, raw / name)
    place = ("--store", str(tmp_path / "b"))
    code, said, after = run_with_peak("ingest", str(raw), *words, *place)
    assert code == 3, said
    assert after - before < BOOK["files"][name]["max_extra_memory_mb"]


@needs_shared
def test_links_and_modes_that_a_checkout_cannot_hold(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "loop").mkdir(parents=True)
    shutil.copy(BROKEN / "gray8.jpg", raw / "ok.jpg")
    (raw / "loop" / "up").symlink_to("..")
    (raw / "dangling.jpg").symlink_to("missing.jpg")
    wanted = {"dangling.jpg": "missing_file"}
    written = {"ok.jpg"}
    shutil.copy(BROKEN / "cmyk.jpg", raw / "unreadable.jpg")
    (raw / "unreadable.jpg").chmod(0)
    if os.access(raw / "unreadable.jpg", os.R_OK):  # root reads everything
        written.add("unreadable.jpg")
    else:
        wanted["unreadable.jpg"] = "permission_denied"
    outcome = ingest_all(tmp_path / "store", "image", str(raw))
    assert {Path(uri).name for uri in outcome.samples} == written
    assert outcome.reasons() == wanted
