"""Every command of README and docs is run, in the order of the pages, on raw files made here.

`--direct` is added where it exists, and runs are cut short: the functions are the same. What cannot
run here is named in `ELSEWHERE` and `SHELL`, with the test that runs it; a command that is in
neither and is not headrace's fails the test.
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
from flows.serve_plan import ServePlan
from flows.yaml_files import read_yaml
from tests.integration.raw import make_images, make_videos
from tests.test_readme import ROOT, blocks, commands, shell_lines

ELSEWHERE = {
    "cluster.md": "tests/integration/test_ray_cluster.py",
    "schedules.md": "tests/integration/test_serve.py",
    "extending.md": "tests/integration/test_extending.py",
}
"Pages that need a cluster, a server, or code of their own."
SHELL = {
    "make demo": "tests/integration/test_command.py",
    "make test": "Makefile",
    "source .venv/bin/activate": "Makefile",
    "export HEADRACE_STORE=./store": "tests/integration/test_pages_run.py",
}
"Lines of the other pages that are no command of headrace, and what holds them."
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HERE = [page for page in PAGES if page.name not in ELSEWHERE]
DIRECT = {"ingest", "derive", "pretrain", "evaluate", "export"}
SHORT = {"pretrain": ["steps=4", "batch=4", "log_every=2", "heldout_every=2", "save_every=4"]}


def make_sources(folder: Path) -> None:
    """Write what the pages point at: photos, clips, plates, scenes, slides, a list of photos."""
    make_images(folder / "photos", 24, 120)
    make_videos(folder / "clips", count=12, frames=40, edge=144)
    rng = np.random.default_rng(0)
    (folder / "plates").mkdir()
    for site in range(16):
        for number, name in enumerate(("DNA", "ER"), 1):
            field = rng.integers(0, 4000, (96, 96), np.uint16)
            well = f"A{site // 2 + 1:02d}_s{site % 2}"
            tifffile.imwrite(folder / f"plates/p1_{well}_w{number}_{name}.tif", field)
    (folder / "scenes").mkdir()
    for i in range(2):
        _write_scene(folder / f"scenes/scene_{i}.tif", rng)
    (folder / "slides").mkdir()
    slide = rng.integers(0, 255, (3, 1100, 1100), np.uint8)
    tifffile.imwrite(folder / "slides/slide.tif", slide, photometric="minisblack")
    rows = ["path,species"]
    for i in range(16):
        picture = rng.integers(0, 255, (100, 110, 3), np.uint8)
        cv2.imwrite(str(folder / f"animal{i}.jpg"), picture)
        rows.append(f"animal{i}.jpg,{'cat' if i % 2 else 'dog'}")
    (folder / "photos.csv").write_text("\n".join(rows))
    (folder / "examples").symlink_to(ROOT / "examples")


def _write_scene(path: Path, rng: np.random.Generator) -> None:
    place = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 10, 10)}
    shape = {"width": 200, "height": 160, "count": 4, "dtype": "uint16"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place) as file:
        file.write(rng.integers(1, 4000, (4, 160, 200), np.uint16))


def test_no_command_is_left_out_silently() -> None:
    for page in HERE:
        others = [line for line in shell_lines(page) if not line.startswith("headrace ")]
        unheld = [line for line in others if line.split("#")[0].strip() not in SHELL]
        assert unheld == [], f"{page.name}: a command that no test runs"
    for name, test in (*ELSEWHERE.items(), *SHELL.items()):
        assert (ROOT / test).is_file(), name
    assert sum(len(commands(page)) for page in HERE) > 60


def test_deployments_of_the_pages_are_read(tmp_path: Path) -> None:
    found = blocks(ROOT / "docs/schedules.md", "yaml")
    assert found
    for i, text in enumerate(found):
        (tmp_path / f"{i}.yaml").write_text(text)
        assert read_yaml(tmp_path / f"{i}.yaml", ServePlan).deployments


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_command_of_the_pages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sources(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_STORE", str(tmp_path / "store"))
    failed = []
    for page in HERE:
        for line in commands(page):
            _, name, *words = shlex.split(line, comments=True)
            words += ["--direct"] * (name in DIRECT and not {"--direct", "--plan"} & set(words))
            done = CliRunner().invoke(app, [name, *words, *SHORT.get(name, [])])
            if done.exit_code:
                failed.append(f"{page.name}: {line}: {done.exit_code} {done.output[-400:]}")
        _run_python(page, tmp_path)
    assert not failed, "\n".join(failed)


def _run_python(page: Path, folder: Path) -> None:
    """Run a page's Python as it stands, over a part that is there."""
    for block in blocks(page, "python"):
        parts = sorted((folder / "store/datasets/photos/parts").iterdir())
        exec(compile(block.replace("<part>", parts[0].name), str(page), "exec"), {})
