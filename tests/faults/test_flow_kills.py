"""T7: flows that are cancelled or killed at random moments, with their engine and with Ray's head.

Run again, the same command finishes; the store is verified; no process and no shared memory is
left. Slow: a real Ray starts anew each time. Commands that are killed, or whose server is, have a
server of their own; the others, and what runs again, use a lasting one.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from pipelines.verify import verify
from storage.fs import open_store
from storage.snapshots import list_datasets
from tests.faults import killer
from tests.integration.lasting_server import Server
from tests.integration.raw import make_videos

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.prefect,
    pytest.mark.timeout(2400),
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
    "export": (
        ("ingest", "derive", "pretrain"),
        ["export", "first", "--to", "headrace", "--output", "{root}/weights", "--overwrite"],
    ),
    "study": ((), ["study", "{place}/study.yaml", "--output", "{place}/study.html"]),
}
VICTIMS = ("cancel", "driver", "engine", "ray head")
OWN = ("driver", "engine")
"Victims for which the command has a server of its own."
SECONDS = 900.0
"For a command, on a machine that does much else."


class Place:
    """Raw videos, and a store for each flow as it is before that flow, made once and copied."""

    def __init__(self, place: Path, server: Server) -> None:
        self.place, self.server = place, server
        for label in ("left", "right"):
            make_videos(place / "videos" / label, count=4, frames=16 if label == "left" else 17)
        self.made = place / "before"
        self.done: list[str] = []
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

    def start(self, flow: str, root: Path, *more: str, own: bool = False) -> killer.Command:
        words = [
            word.format(videos=self.place / "videos", place=self.place, root=root)
            for word in FLOWS[flow][1]
        ]
        words += ["--labels", "parent", "--shard-size", "9000"] if flow == "ingest" else []
        words += ["--workers", "2"] if flow in ("ingest", "derive", "study") else []
        api = {"PREFECT_API_URL": self.server.api}
        alone = {
            "PREFECT_HOME": str(self.place / "prefect"),
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(SECONDS),
        }
        return killer.Command([*words, "--store", str(root), *more], alone if own else api)

    def prepare(self, flow: str, root: Path) -> None:
        """Make a new store as it is before a flow."""
        shutil.rmtree(root, ignore_errors=True)
        earlier = FLOWS[flow][0]
        for name in earlier[len(self.done) :]:
            done = killer.finish(self.start(name, self.made, "--direct"), SECONDS)
            assert done.code == 0, done.stderr
            self.done.append(name)
            shutil.copytree(self.made, self.place / f"after {name}")
        if earlier:
            shutil.copytree(self.place / f"after {earlier[-1]}", root)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with TemporaryDirectory(prefix="flow-kills-") as folder:
        server = Server(Path(folder))
        server.begin()
        yield Place(Path(folder), server)
        server.end()


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


def has_begun(place: Place, command: killer.Command, victim: str, before: int) -> bool:
    """Say whether the flow runs: by its own server, Ray's head, or the lasting server's list."""
    if victim == "cancel":
        return len(place.server.all_runs()) > before
    return bool(ray_head(command) if victim == "ray head" else killer.engine(command))


def struck(place: Place, flow: str, victim: str, root: Path) -> tuple[killer.Ended, set[Path]]:
    """Start a flow and strike it at a random moment; one that ended before starts anew and is
    struck earlier. Returns how it ended, and its shared memory, when every process is gone."""
    rng = random.Random(f"{flow} {victim}")
    wait = rng.uniform(0, 12)
    for share in (1, 0.5, 0.2, 0):
        place.prepare(flow, root)
        before = len(place.server.all_runs())
        command = place.start(flow, root, own=victim in OWN)
        while command.runs() and not has_begun(place, command, victim, before):
            time.sleep(0.2)
        time.sleep(wait * share)
        seen = command.below()
        memory = shared_memory([*seen, *killer.driver(command)])
        hit = command.runs() and strike(command, victim, rng)
        ended = killer.finish(command, SECONDS)
        _, alive = psutil.wait_procs(seen, timeout=90)
        assert [killer.words_of(process) for process in alive] == []
        late = victim == "cancel" and ended.code == 0 and ended.stdout
        if hit and not late:
            return ended, memory
    raise AssertionError(f"it ended before it was struck: {ended.stderr}")


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("flow", FLOWS)
def test_struck_at_a_random_moment_and_run_again(place: Place, flow: str, victim: str) -> None:
    if victim == "ray head" and flow in ("pretrain", "evaluate", "export"):
        pytest.skip("it starts no Ray")
    root = place.place / f"{flow} {victim}"
    ended, memory = struck(place, flow, victim, root)
    assert "Traceback" not in ended.stderr, ended.stderr
    expected = {"engine": 0, "cancel": 130, "driver": -signal.SIGKILL}
    assert ended.code == expected.get(victim, ended.code), ended.stderr
    if victim == "cancel":
        assert place.server.all_runs()[-1]["state_type"] in ("CANCELLED", "CRASHED", "FAILED")
    again = killer.finish(place.start(flow, root), SECONDS)
    assert again.code == 0, again.stderr
    store = open_store(root)
    assert list_datasets(store) == ["clips"]
    report = verify(store, "clips")
    assert (report["samples"], report["damaged"]) == (8, [])
    assert [path for path in memory if path.exists()] == []
    if flow == "export":
        assert load_file(next((root / "weights").glob("*.safetensors")))
