"""T7: flows that are cancelled or killed at random moments, with their engine and with Ray's head.

Run again, the same command finishes; the store is verified; no process and no shared memory is
left. Slow: a real Prefect and a real Ray start anew each time.
"""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
import yaml

from pipelines.verify import verify
from storage.fs import open_store
from storage.snapshots import list_datasets
from tests.faults import killer
from tests.integration.raw import make_videos

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.prefect,
    pytest.mark.timeout(1500),
]
TINY = ["view.size=64", "model.depth=1", "mask.ratio=0.75", "batch=4", "steps=40", "save_every=5"]
FLOWS: dict[str, tuple[tuple[str, ...], list[str]]] = {
    # name: what is there before, and the command
    "ingest": ((), ["ingest", "{videos}", "--modality", "video", "--dataset", "clips"]),
    "derive": (("ingest",), ["derive", "clips", "flow", "motion"]),
    "pretrain": (
        ("ingest", "derive"),
        ["pretrain", "mgmae_tiny", "data.dataset=clips", *TINY, "--run", "first", "--resume"],
    ),
    "evaluate": (
        ("ingest", "derive", "pretrain"),
        ["evaluate", "first", "--dataset", "clips", "--untrained"],
    ),
    "study": ((), ["study", "{place}/study.yaml", "--output", "{place}/study.html"]),
}
VICTIMS = ("cancel", "driver", "engine", "ray head")


class Place:
    """Raw videos, and a store for each flow as it is before that flow."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for label in ("left", "right"):
            make_videos(place / "videos" / label, count=4, frames=16 if label == "left" else 17)
        self.environment = {"PREFECT_HOME": str(place / "prefect")}
        plan = {
            "name": "s",
            "dataset": "clips",
            "ingest": {
                "source": str(place / "videos"),
                "modality": "video",
                "options": {"labels": "parent"},
            },
            "recipe": "mgmae_tiny",
            "settings": {word.split("=")[0]: yaml.safe_load(word.split("=")[1]) for word in TINY},
            "runs": {"tube": {"mask.kind": "tube"}, "mgmae": {}},
            "probe": {"kind": "knn"},
        }
        (place / "study.yaml").write_text(yaml.safe_dump(plan))

    def start(self, flow: str, root: Path, *more: str) -> killer.Command:
        words = [
            word.format(videos=self.place / "videos", place=self.place) for word in FLOWS[flow][1]
        ]
        words += ["--labels", "parent", "--shard-size", "9000"] if flow == "ingest" else []
        words += ["--workers", "2"] if flow in ("ingest", "derive", "study") else []
        return killer.Command([*words, "--store", str(root), *more], self.environment)

    def prepare(self, flow: str, root: Path) -> None:
        for earlier in FLOWS[flow][0]:
            done = killer.finish(self.start(earlier, root, "--direct"))
            assert done.code == 0, done.stderr


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with TemporaryDirectory(prefix="flow-kills-") as folder:
        yield Place(Path(folder))


def shared_memory(processes: list[psutil.Process]) -> set[Path]:
    """Return the files of /dev/shm that processes have mapped; others on this machine have more."""
    found: set[Path] = set()
    for process in processes:
        with suppress(OSError):
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            found |= {Path(name) for name in re.findall(r"/dev/shm/\S+", maps)}
    return found


def ray_head(command: killer.Command) -> list[psutil.Process]:
    return [child for child in command.below() if "gcs_server" in killer.words_of(child)]


def strike(command: killer.Command, victim: str, rng: random.Random) -> bool:
    """Cancel the command as Ctrl-C does, or kill one of its processes."""
    if victim == "cancel":
        command.process.send_signal(signal.SIGINT)
        return True
    choices = {"driver": killer.driver, "engine": killer.engine, "ray head": ray_head}
    return command.kill(choices[victim], rng)


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("flow", FLOWS)
def test_struck_at_a_random_moment_and_run_again(place: Place, flow: str, victim: str) -> None:
    if victim == "ray head" and flow in ("pretrain", "evaluate"):
        pytest.skip("the local feed starts no Ray")
    root, rng = place.place / f"{flow} {victim}", random.Random(f"{flow} {victim}")
    place.prepare(flow, root)
    command = place.start(flow, root)
    targets = {"ray head": ray_head, "engine": killer.engine}.get(victim, killer.engine)
    while command.runs() and not targets(command):
        time.sleep(0.05)
    time.sleep(rng.uniform(0, 12))
    seen = command.below()
    memory = shared_memory([*seen, *killer.driver(command)])
    struck = command.runs() and strike(command, victim, rng)
    ended = killer.finish(command)
    assert struck, f"it ended before it was struck: {ended.stderr}"
    assert "Traceback" not in ended.stderr, ended.stderr
    expected = {"engine": 0, "cancel": 130, "driver": -signal.SIGKILL}
    assert ended.code == expected.get(victim, ended.code), ended.stderr
    _, alive = psutil.wait_procs(seen, timeout=90)
    assert [killer.words_of(process) for process in alive] == []
    again = killer.finish(place.start(flow, root))
    assert again.code == 0, again.stderr
    store = open_store(root)
    assert list_datasets(store) == ["clips"]
    report = verify(store, "clips")
    assert (report["samples"], report["damaged"]) == (8, [])
    assert [path for path in memory if path.exists()] == []
