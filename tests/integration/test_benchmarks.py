"""The benchmarks run, and what they promise at full size holds at a small one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
WORKER_MIB = 1500

pytestmark = pytest.mark.slow


def run(name: str, *options: str) -> list[list[str]]:
    """Run a benchmark; returns the cells of its last table, the head left out."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *options],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    last = max(i for i, line in enumerate(lines) if line.startswith("| ---"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[last + 1 :]]


def number(text: str) -> float:
    return float(text.replace(",", "").rstrip("x"))


def test_ingest_of_images(tmp_path: Path) -> None:
    rows = run("ingest_images.py", "--made", "40", "--rounds", "1", "--only", "webdataset")
    assert [row[0].split()[0] for row in rows] == ["headrace", "webdataset", "bound:"]


def test_verified_reads_are_fast() -> None:
    """Acceptance 8, with room for a busy machine."""
    ours, pread, stock = run("read_members.py", "--samples", "4000", "--rounds", "3")
    assert number(ours[4]) == 1
    assert number(pread[4]) >= 0.4
    assert number(stock[4]) >= 4


def test_memory_is_flat_in_the_number_of_files(tmp_path: Path) -> None:
    sizes = ("--sizes", "2000", "8000", "--scratch", str(tmp_path))
    small, large = run("scale_ingest.py", *sizes)
    assert number(large[4]) <= number(small[4]) + 60


def test_memory_of_a_scene_and_a_video(tmp_path: Path) -> None:
    options = ("--scene-mib", "300", "--video-minutes", "3", "--scratch", str(tmp_path))
    for row in run("memory_ingest.py", *options):
        assert max(number(row[4]), number(row[5])) <= WORKER_MIB


def test_listing_and_manifest(tmp_path: Path) -> None:
    options = ("--files", "20000", "--rows", "200000", "--scratch", str(tmp_path))
    rows = run("listing.py", *options)
    assert rows[0][2] == "20,000"
    assert {row[2] for row in rows[1:5]} == {"200,000"}
