"""A worker that is killed, forked or not: the batches are those of a feed that was left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from pipelines import local_feed
from pipelines.feed import open_feed
from pipelines.local_feed import FORK, SERVER
from storage.fs import Store, open_store
from tests.integration.feed_sets import PLAIN, fill, same

STOP = 24
WAYS = pytest.mark.parametrize("method", [FORK, SERVER])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder: Path = tmp_path_factory.mktemp("kills")
    return fill(open_store(folder / "store"), folder / "raw")


def check(got: list[dict], store: Store) -> None:
    wanted = list(open_feed(store, PLAIN, stop=STOP))
    assert len(got) == len(wanted) == STOP
    assert all(map(same, got, wanted))


def start_by(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_feed, "way_to_start", lambda _: method)


@WAYS
def test_a_killed_worker_is_replaced(
    method: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_by(method, monkeypatch)
    feed = open_feed(store, PLAIN, stop=STOP, workers=2)
    got = []
    for batch in feed:
        got.append(batch)
        if len(got) == 3:
            os.kill(feed._source.started._workers[0].pid, signal.SIGKILL)
    check(got, store)
    assert [proof.samples for proof in feed.proofs] == [16] * 6
    feed.close()


@WAYS
def test_a_feed_that_is_closed_while_workers_start_keeps_none(
    method: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_by(method, monkeypatch)
    feed = open_feed(store, PLAIN, stop=STOP, workers=2)
    batches = iter(feed._source)
    next(batches)  # built here, while the workers start
    feed.close()
    batches.close()
    assert feed._source.started is None
    assert len(list(feed)) == STOP  # and may be asked again
    feed.close()


def test_a_forked_worker_that_gives_nothing_is_given_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still as one does that waits for a lock that nobody opens."""
    monkeypatch.setattr(local_feed, "_LOOK_SECONDS", 1)
    start_by(FORK, monkeypatch)
    feed = open_feed(store, PLAIN, stop=STOP, workers=2)
    got = []
    for batch in feed:
        got.append(batch)
        if len(got) == 3:
            monkeypatch.setattr(local_feed, "FORKED_SECONDS", 1)
            os.kill(feed._source.started._workers[0].pid, signal.SIGSTOP)
    check(got, store)
    assert feed._source.method == SERVER
    feed.close()


def test_workers_leave_the_generator_of_the_trainer_alone(store: Store) -> None:
    before = torch.get_rng_state()
    for workers in (0, 1):
        feed = open_feed(store, PLAIN, stop=3, workers=workers)
        assert len(list(feed)) == 3
        feed.close()
        assert torch.equal(torch.get_rng_state(), before)


KILLED = """
import os, signal, sys
import psutil
from pipelines import local_feed
from pipelines.feed import open_feed
from storage.fs import Store
from tests.integration.feed_sets import PLAIN

if __name__ == "__main__":
    local_feed.way_to_start = lambda _: sys.argv[2]
    batches = iter(open_feed(Store(sys.argv[1]), PLAIN, workers=2))
    for _ in range(3):
        next(batches)
    started = psutil.Process().children(recursive=True)
    print(*(process.pid for process in started))
    lines = open("/proc/self/maps").read().splitlines()
    print(*{line.split()[4] for line in lines if "/dev/shm/" in line}, flush=True)
    (os.killpg if sys.argv[3] else os.kill)(os.getpid(), signal.SIGKILL)
"""


@WAYS
def test_workers_end_with_the_process_that_they_work_for(
    method: str, store: Store, tmp_path: Path
) -> None:
    started, _ = all_end(store, tmp_path, method)
    assert len(started) == (2 if method == FORK else 4)  # a fork server, and what cleans up for it


def test_a_killed_group_leaves_no_shared_memory_and_no_semaphore(
    store: Store, tmp_path: Path
) -> None:
    _, had = all_end(store, tmp_path, FORK, group="group")
    assert len(had) > 5  # locks of queues, batches
    assert not set(had) & {str(place.stat().st_ino) for place in Path("/dev/shm").iterdir()}


def all_end(
    store: Store, tmp_path: Path, method: str, group: str = ""
) -> tuple[list[str], list[str]]:
    """Kill a process, or its whole group, and wait for those that it started.

    Returns:
        The ids of these, and the inodes of the shared memory that it had in use.
    """
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(script), store.uri, method, group],
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    started, shared = (line.split() for line in done.stdout.splitlines())
    until = time.monotonic() + 20
    while any(map(lives, started)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [pid for pid in started if lives(pid)]
    return started, shared


def lives(pid: str) -> bool:
    try:
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
