"""A cluster of two nodes on this machine: batches and jobs are those of one process, whatever is
lost, and workers run the code of the driver (G4, G8, G10)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from pipelines.ray_jobs import start_ray
from storage.fs import Store
from tests.integration.feed_sets import make_store, open_way, same

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
NODE = {"num_cpus": 2, "object_store_memory": 150 * 2**20}
BATCHES, LOST_AT = 60, 5


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("cluster"))


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        cluster.add_node(**NODE)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Give two nodes, and this process connected to the first."""
    with two_nodes() as cluster:
        start_ray(cluster.address)
        yield cluster


def second(cluster: Cluster) -> Any:
    """Return the node that is not the head, a new one where it was lost."""
    if not cluster.worker_nodes:
        cluster.add_node(**NODE)
        cluster.wait_for_nodes()
    return next(iter(cluster.worker_nodes))


def builders(node: Any) -> list[psutil.Process]:
    """Return the actors of a node that run."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [child for child in raylet.children(recursive=True) if "_Builder" in child.name()]


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_lost_node_loses_no_batch(store: Store, cluster: Cluster) -> None:
    whole = open_way(store, "mixture", stop=BATCHES)
    wanted = list(whole)
    feed, node, got = open_ray(store, workers=3), second(cluster), []
    for batch in feed:
        got.append(batch)
        if len(got) == LOST_AT:
            wait_until(lambda: builders(node))
            cluster.remove_node(node, allow_graceful=False)
    assert all(same(a, b) for a, b in zip(got, wanted, strict=True))
    assert feed.proofs == whole.proofs


def open_ray(store: Store, **values: Any) -> Any:
    return open_way(store, "mixture", stop=BATCHES, kind="ray", **values)
