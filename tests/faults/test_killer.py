"""T7: real commands killed from outside, at random moments, end in the same store.

All of them are slow: a real Ray and a real Prefect start anew after each kill.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from tests.faults import killer, scenes
from tests.faults.zygote import ROOT
from tests.integration.raw import make_images, make_videos

KILLS = 5
WAYS = {
    "direct, 1": ("--direct", "--workers", "1"),
    "direct, 3": ("--direct", "--workers", "3"),
    "ray, 1": ("--workers", "1"),
    "ray, 3": ("--workers", "3"),
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Camp:
    """Raw videos and pictures, and the trees that untouched commands make of them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.videos = make_videos(place / "videos", count=9)
        (self.videos / "broken.mp4").write_bytes(b"no video")
        self.pictures = make_images(place / "pictures", count=24, edge=64)
        self.environment = {"PREFECT_HOME": str(place / "prefect")}
        self.wanted = {}
        for kind in ("video", "image"):
            root = place / f"{kind}-whole"
            assert killer.finish(self.start(root, kind, WAYS["direct, 1"])).code == 0
            self.wanted[kind] = scenes.tree(root)

    def start(self, root: Path, kind: str, way: tuple[str, ...]) -> killer.Command:
        """Start an ingest of the videos, or of the pictures."""
        source = self.videos if kind == "video" else self.pictures
        words = ["ingest", str(source), "--modality", kind, "--dataset", scenes.DATASET]
        words += ["--store", str(root), "--shard-size", "9000", "--max-reject", "0.5", *way]
        return killer.Command(words, self.environment)

    def check(self, root: Path, kind: str) -> None:
        assert scenes.differences(self.wanted[kind], scenes.tree(root)) == set()
        scenes.check_clean(root)


@pytest.fixture(scope="module")
def camp() -> Iterator[Camp]:
    with TemporaryDirectory(prefix="killer-") as place:
        yield Camp(Path(place))


@pytest.mark.ray
@pytest.mark.prefect
@pytest.mark.parametrize("kind", ["video", "image"])
@pytest.mark.parametrize("way", WAYS)
def test_killed_five_times_and_resumed_the_store_is_the_same(
    camp: Camp, way: str, kind: str
) -> None:
    """G3, G4: the moments are drawn from what the store holds by then, so work is under way."""
    root = camp.place / f"{kind} {way}"
    rng = random.Random(f"{kind} {way}")
    files = len(camp.wanted[kind])
    for moment in sorted(rng.choices(range(files), k=KILLS)):
        command = camp.start(root, kind, WAYS[way])
        while command.runs() and not (root.exists() and len(list(root.rglob("*.*"))) >= moment):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        command.kill(killer.driver, rng)
        command.bury()
    done = killer.finish(camp.start(root, kind, WAYS[way]))
    assert done.code == 0, done.stderr
    camp.check(root, kind)


@pytest.mark.parametrize("kills", [1, 3])
def test_killed_workers_cost_nothing(camp: Camp, kills: int) -> None:
    """Jobs of a dead process run again within the same command."""
    root = camp.place / f"workers {kills}"
    rng = random.Random(kills)
    command = camp.start(root, "video", WAYS["direct, 3"])
    killed = 0
    while command.runs() and killed < kills:
        time.sleep(rng.uniform(0.0, 0.3))
        killed += command.kill(killer.workers, rng)
    done = killer.finish(command)
    assert killed
    assert done.code == 0, done.stderr
    camp.check(root, "video")


@pytest.mark.ray
@pytest.mark.prefect
def test_killed_ray_workers_cost_nothing(camp: Camp) -> None:
    root = camp.place / "ray workers"
    rng = random.Random(0)
    command = camp.start(root, "video", WAYS["ray, 3"])
    killed = 0
    while command.runs() and killed < 2:
        killed += command.kill(killer.ray_workers, rng)
        time.sleep(rng.uniform(0.2, 0.5))
    done = killer.finish(command)
    assert killed
    assert done.code == 0, done.stderr
    camp.check(root, "video")


@pytest.mark.ray
@pytest.mark.prefect
def test_a_killed_engine_costs_nothing(camp: Camp) -> None:
    """G10: the server of Prefect dies under a flow; it is started again, with the state it had."""
    root = camp.place / "engine"
    command = camp.start(root, "video", WAYS["ray, 3"])
    while command.runs() and not list(root.rglob("*.tar")):
        time.sleep(0.01)
    assert command.kill(killer.engine, random.Random(0))
    ended = killer.finish(command)
    assert ended.code == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    camp.check(root, "video")


@pytest.mark.ray
@pytest.mark.prefect
def test_nothing_outlives_a_killed_command(camp: Camp) -> None:
    """Neither Prefect's server, nor Ray, nor workers; each would hold memory until somebody
    looks."""
    for way in ("direct, 3", "ray, 3"):
        command = camp.start(camp.place / f"left {way}", "video", WAYS[way])
        while command.runs() and not list((camp.place / f"left {way}").rglob("*.tar")):
            time.sleep(0.01)
        left = command.below()
        assert any(child in left for child in killer.engine(command)) == (way == "ray, 3")
        command.kill(killer.driver, random.Random(0))
        _, alive = psutil.wait_procs(left, timeout=90)
        assert [killer.words_of(child) for child in alive] == []
        command.bury()


@pytest.mark.ray
def test_killed_actors_of_the_ray_feed_change_no_batch(tmp_path: Path) -> None:
    """G8: a lost block is computed again, and comes in its place."""
    command = [sys.executable, "-m", "tests.faults.feed_under_fire", str(tmp_path), "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "killed" in [line.split(" ")[0] for line in done.stdout.splitlines()]
