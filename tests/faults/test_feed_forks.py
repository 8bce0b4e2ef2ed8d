"""Workers are forked only where that is safe, and beside threads that hold locks none hangs."""

from __future__ import annotations

import logging
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import compute

from pipelines import worker
from pipelines.batch import BatchBuilder
from pipelines.feed import open_feed
from pipelines.local_feed import FORK, SERVER, way_to_start
from pipelines.worker import ready_to_fork, reason_not_to_fork
from storage.fs import Store, open_store
from tests.integration.feed_sets import PLAIN, fill, same

FORKS = 10


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder: Path = tmp_path_factory.mktemp("forks")
    return fill(open_store(folder / "store"), folder / "raw")


@contextmanager
def beside(*works: Callable[[], object]) -> Iterator[None]:
    """Do works again and again, each in a thread of its own."""
    done = threading.Event()

    def go_on(work: Callable[[], object]) -> None:
        while not done.is_set():
            work()

    threads = [threading.Thread(target=go_on, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule as it is where neither is loaded; other tests may have loaded them already."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        pytest.skip("tests before these started Ray, whose threads are at work in this process")
    for name in ("ray", "grpc"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_thread_that_waits_is_no_reason_and_one_at_work_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not reason_not_to_fork()
    with beside(lambda: threading.Event().wait(0.5)):
        time.sleep(0.05)
        assert not reason_not_to_fork()
    monkeypatch.setattr(worker, "QUIET_SECONDS", 0.02)
    with beside(lambda: time.sleep(0.5)):
        assert "is at work" in reason_not_to_fork()


@pytest.mark.parametrize("name", ["ray", "grpc"])
def test_libraries_with_threads_are_a_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    assert reason_not_to_fork() == f"{name} is loaded"


def test_devices_and_ranks_are_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        assert "CUDA" in reason_not_to_fork()
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        assert "ranks" in reason_not_to_fork()
    finally:
        torch.distributed.destroy_process_group()


def test_remote_stores_are_read_by_workers_of_a_server(store: Store) -> None:
    assert way_to_start([BatchBuilder(store.uri, PLAIN, [])]) == FORK
    assert way_to_start([BatchBuilder("s3://bucket/store", PLAIN, [])]) == SERVER


def test_opencv_has_no_threads_to_copy() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    picture = np.zeros((2000, 2000, 3), np.uint8)
    cv2.GaussianBlur(picture, (9, 9), 0)
    running = len(list(Path("/proc/self/task").iterdir()))
    with ready_to_fork():
        assert len(list(Path("/proc/self/task").iterdir())) <= running - 3
    cv2.setNumThreads(before)


def log_a_line() -> None:
    logging.getLogger("beside").warning("a line")


def add_numbers() -> None:
    numbers = pa.array(range(100_000))
    compute.sum(compute.add(numbers, numbers))


def decode_a_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)
    cv2.imdecode(cv2.imencode(".jpg", picture)[1], cv2.IMREAD_COLOR)


def multiply_tensors() -> None:
    (torch.ones(200, 200) @ torch.ones(200, 200)).sum().item()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("work", [log_a_line, add_numbers, decode_a_picture, multiply_tensors])
def test_no_worker_hangs_whatever_locks_another_thread_holds(
    work: Callable[[], None], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fork waits for a moment of rest of the thread, or workers come from a fork server."""
    log = logging.getLogger("beside")
    log.propagate = False
    log.addHandler(logging.FileHandler("/dev/null"))
    monkeypatch.setattr(worker, "QUIET_SECONDS", 2)
    wanted = list(open_feed(store, PLAIN, stop=4))
    rest = threading.Event()
    methods = []
    with beside(lambda: (work(), rest.wait(0.02))):
        for _ in range(FORKS):
            feed = open_feed(store, PLAIN, stop=4, workers=2)
            got = list(feed)
            methods.append(feed._source.method)
            feed.close()
            assert all(map(same, got, wanted))
            assert len(got) == 4
    assert methods.count(FORK) > FORKS // 2
