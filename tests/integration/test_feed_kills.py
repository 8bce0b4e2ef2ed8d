"""A worker that is killed: the batches are those of a feed that was left alone."""

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

from pipelines.feed import open_feed
from storage.fs import Store, open_store
from tests.integration.feed_sets import PLAIN, fill, same

STOP = 24


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder: Path = tmp_path_factory.mktemp("kills")
    return fill(open_store(folder / "store"), folder / "raw")


def check(got: list[dict], store: Store) -> None:
    wanted = list(open_feed(store, PLAIN, stop=STOP))
    assert len(got) == len(wanted) == STOP
    assert all(map(same, got, wanted))


def test_a_killed_worker_is_replaced(store: Store) -> None:
    feed = open_feed(store, PLAIN, stop=STOP, workers=2)
    got = []
    for batch in feed:
        got.append(batch)
        if len(got) == 3:
            os.kill(feed._source.started._workers[0].pid, signal.SIGKILL)
    check(got, store)
    assert [proof.samples for proof in feed.proofs] == [16] * 6
    feed.close()


def test_a_feed_that_is_closed_while_workers_start_keeps_none(store: Store) -> None:
    feed = open_feed(store, PLAIN, stop=STOP, workers=2)
    batches = iter(feed._source)
    next(batches)  # built here, while the workers start
    feed.close()
    batches.close()
    assert feed._source.started is None
    assert len(list(feed)) == STOP  # and may be asked again
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
from pipelines.feed import open_feed
from storage.fs import Store
from tests.integration.feed_sets import PLAIN

if __name__ == "__main__":
    batches = iter(open_feed(Store(sys.argv[1]), PLAIN, workers=2))
    for _ in range(3):
        next(batches)
    started = psutil.Process().children(recursive=True)
    print(*(process.pid for process in started), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_the_process_that_they_work_for(store: Store, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(script), store.uri],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    started = [int(pid) for pid in done.stdout.split()]
    assert len(started) >= 3  # two workers, and the fork server
    until = time.monotonic() + 20
    while any(lives(pid) for pid in started) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [pid for pid in started if lives(pid)]


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
