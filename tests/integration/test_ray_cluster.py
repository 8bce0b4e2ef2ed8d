"""A cluster of two nodes on this machine: batches and jobs are those of one process, whatever is
lost, and workers run the code of the driver (G4, G8, G10)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from pipelines.derive import derive
from pipelines.executors import Executor, run_jobs
from pipelines.feed import Feed
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.ray_code import PACKAGES, ROOT, OtherCodeError, shipped
from pipelines.ray_feed import RayStream
from pipelines.ray_jobs import start_ray, traced_for, wait_for_room
from storage.fs import Store, StoreError, open_store
from tests.integration.feed_sets import (
    all_ranks,
    delivered,
    make_store,
    open_way,
    resume_points,
    same,
)
from tests.integration.raw import make_videos
from tests.integration.test_ingest import tree_hash

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
HEAD = {"num_cpus": 1, "object_store_memory": 150 * 2**20}
SECOND = {"num_cpus": 2, "object_store_memory": 150 * 2**20}
BATCHES, LOST_AT = 60, 5
SPEC = IngestSpec(modality="video", frames=8, shard_size=8192, heldout=0.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args=HEAD)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def second(cluster: Cluster) -> Any:
    """Give the node that is not the head, a new one where it was lost."""
    if not cluster.worker_nodes:
        cluster.add_node(**SECOND)
        cluster.wait_for_nodes()
    return next(iter(cluster.worker_nodes))


@pytest.fixture
def executor(cluster: Cluster, second: Any) -> Iterator[Executor]:
    """Give an executor that needs both nodes, for as long as this process is connected to them."""
    yield Executor(kind="ray", workers=3, ray_address=cluster.address)
    ray.shutdown()


@contextmanager
def connected(cluster: Cluster, **values: Any) -> Iterator[None]:
    """Connect as somebody else would, who has connected before headrace is asked."""
    ray.init(address=cluster.address, log_to_driver=False, **values)
    try:
        yield
    finally:
        ray.shutdown()


def processes(node: Any, name: str) -> list[psutil.Process]:
    """Return the workers of a node that run a task or an actor of that name."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [child for child in raylet.children(recursive=True) if name in child.name()]


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_batches_of_two_nodes_and_ranks_are_the_local_ones(
    store: Store, second: Any, executor: Executor
) -> None:
    start_ray(executor.ray_address)
    where = {"ranks": 2, "start": 3, "stop": 15, "kind": "ray", "workers": 2}
    feeds = [open_way(store, "mixture", rank=rank, **where) for rank in range(2)]
    wanted = list(open_way(store, "mixture", start=3, stop=15))
    for number, batch in enumerate(all_ranks(feeds)):
        assert same(batch, wanted[number])
        if number == 5:
            wait_until(lambda: processes(second, "_Builder"))
    assert number == len(wanted) - 1


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_lost_node_loses_no_batch(
    store: Store, cluster: Cluster, second: Any, executor: Executor, ranks: int
) -> None:
    start_ray(executor.ray_address)
    wanted = delivered(store, "mixture", stop=BATCHES)

    def lose(feeds: list[Feed]) -> None:
        wait_until(lambda: processes(second, "_Builder"))
        cluster.remove_node(second, allow_graceful=False)

    start = resume_points(BATCHES // 2, ranks)[ranks - 1]
    where = {"ranks": ranks, "start": start, "stop": BATCHES, "kind": "ray", "workers": 2 // ranks}
    assert delivered(store, "mixture", harm={LOST_AT: lose}, **where) == wanted[start:]
    assert second not in cluster.worker_nodes


@pytest.mark.parametrize("lose", [False, True], ids=["whole", "a node is lost"])
def test_ingest_and_derive_write_the_same_bytes(
    cluster: Cluster,
    second: Any,
    executor: Executor,
    lose: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_videos(tmp_path / "raw", 12)
    took: list[psutil.Process] = []

    def told(what: str, done: int, total: int) -> None:
        if second in cluster.worker_nodes:
            took.extend(processes(second, "traced_for"))
            if lose and done == 2:
                cluster.remove_node(second, allow_graceful=False)

    monkeypatch.chdir(tmp_path)
    for place, where in (("one", Executor()), ("two", executor)):
        store = open_store(tmp_path / place)
        ingest(store, ["raw"], "video", SPEC, where)
        report = derive(
            store, "video", {"flow": {}}, where, progress=told if where.workers > 1 else None
        )
    assert len(report["flow"]["workers"]) > 1
    assert tree_hash(tmp_path / "one") == tree_hash(tmp_path / "two")
    assert took
    assert lose != (second in cluster.worker_nodes)


def copy_of_code(folder: Path) -> Path:
    """Copy headrace and change it."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "pipelines" / "worker.py").open("a") as file:
        file.write("\n# another version\n")
    return folder


def test_the_command_sends_its_own_code(cluster: Cluster, second: Any, tmp_path: Path) -> None:
    """The nodes have another version installed: the one that runs this test."""
    raw = str(make_videos(tmp_path / "raw", 4))
    words = ["ingest", raw, "--modality", "video", "--dataset", "video", "--frames", "8"]
    words += ["--store", str(tmp_path / "store"), "--ray-address", cluster.address]
    done = subprocess.run(
        [sys.executable, "-m", "flows", *words, "--workers", "3"],
        cwd=copy_of_code(tmp_path / "code"),
        env={**os.environ, "PREFECT_HOME": str(tmp_path / "prefect")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "store" / "datasets" / "video").is_dir()


def test_workers_with_other_code_are_refused(
    store: Store, cluster: Cluster, second: Any, tmp_path: Path
) -> None:
    other = {**shipped(), "working_dir": str(copy_of_code(tmp_path))}
    with connected(cluster, runtime_env=other):
        with pytest.raises(OtherCodeError, match="the driver"):
            list(run_jobs(str, [1, 2], Executor(kind="ray", workers=2)))
        with pytest.raises(OtherCodeError, match="the driver"):
            list(open_way(store, "image", stop=2, kind="ray"))


def test_a_store_that_a_node_does_not_see_is_told(
    executor: Executor, second: Any, tmp_path: Path
) -> None:
    job = SimpleNamespace(store=str(tmp_path / "elsewhere"))
    with pytest.raises(StoreError, match=r"no such folder on .*, where a Ray worker runs"):
        list(run_jobs(str, [job], executor))


def test_a_pool_without_room_is_refused_or_given_up(
    store: Store, cluster: Cluster, second: Any
) -> None:
    """Both would wait for ever without a word."""
    with connected(cluster, runtime_env=shipped()):
        with pytest.raises(RuntimeError, match=r"2 actors .* 4\) need 4 CPUs, the cluster has 3\."):
            list(open_way(store, "image", stop=2, kind="ray", ranks=4, workers=2))
        for _ in range(3):
            ray.remote(num_cpus=1)(lambda: time.sleep(60)).remote()
        wait_until(lambda: not ray.available_resources().get("CPU"))
        course = open_way(store, "image", stop=2).course
        with pytest.raises(TimeoutError, match=r"batch 0 .* in 2 s\. 0 of 2 actors run.* 0 of the"):
            next(iter(RayStream(course, range(2), 2, first_seconds=2)))
        with pytest.raises(TimeoutError, match=r"no task began in 2 s\. 0 of the cluster's 3"):
            wait_for_room(ray.remote(num_cpus=1)(traced_for), 2)
