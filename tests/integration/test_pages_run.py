"""Every command of README and docs is run, in the order of the pages, on raw files made here.

`--direct` is added where it exists, and runs are cut short: the functions are the same. Left to
tests of their own are pages that need a cluster, a server, or code of their own.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.transform import from_origin
from typer.testing import CliRunner

from flows.command import app
from tests.integration.raw import make_images, make_videos
from tests.test_readme import ROOT, commands

ELSEWHERE = {"cluster.md", "schedules.md", "extending.md"}
"held by test_ray_cluster.py, test_serve.py and test_extending.py"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DIRECT = {"ingest", "derive", "pretrain", "evaluate", "export"}
SHORT = {"pretrain": ["steps=4", "batch=4", "log_every=2", "heldout_every=2", "save_every=4"]}


def make_sources(folder: Path) -> None:
    """Write what the pages point at: photos, clips, plates, scenes, and a list of photos."""
    make_images(folder / "photos", 24, 120)
    make_videos(folder / "clips", count=12, frames=40, edge=144)
    (folder / "plates").mkdir()
    rng = np.random.default_rng(0)
    for site in range(4):
        for number, name in enumerate(("DNA", "ER"), 1):
            field = rng.integers(0, 4000, (96, 96), np.uint16)
            tifffile.imwrite(folder / f"plates/p1_A01_s{site}_w{number}_{name}.tif", field)
    (folder / "scenes").mkdir()
    place = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 10, 10)}
    shape = {"width": 200, "height": 160, "count": 4, "dtype": "uint16"}
    with rasterio.open(folder / "scenes/scene.tif", "w", driver="GTiff", **shape, **place) as file:
        file.write(rng.integers(1, 4000, (4, 160, 200), np.uint16))
    rows = ["path,species"]
    for i in range(16):
        picture = rng.integers(0, 255, (100, 110, 3), np.uint8)
        cv2.imwrite(str(folder / f"animal{i}.jpg"), picture)
        rows.append(f"animal{i}.jpg,{'cat' if i % 2 else 'dog'}")
    (folder / "photos.csv").write_text("\n".join(rows))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_command_of_the_pages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sources(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_STORE", str(tmp_path / "store"))
    failed = []
    for page in PAGES:
        for line in commands(page) if page.name not in ELSEWHERE else []:
            _, name, *words = shlex.split(line, comments=True)
            words += ["--direct"] * (name in DIRECT and "--direct" not in words)
            done = CliRunner().invoke(app, [name, *words, *SHORT.get(name, [])])
            if done.exit_code:
                failed.append(f"{page.name}: {line}: {done.exit_code} {done.output[-400:]}")
    assert not failed, "\n".join(failed)
