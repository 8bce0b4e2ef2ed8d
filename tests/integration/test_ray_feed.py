"""The Ray feed in this process's Ray: bit for bit the local feed, for any ranks, actors and
beginning (G8, G9, T10)."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from pipelines.batch import Told
from pipelines.feed import Feed, open_feed
from pipelines.mixture import Course, Task
from pipelines.processes import WorkerDiedError
from pipelines.ray_feed import RayStream
from pipelines.ray_jobs import start_ray
from pipelines.ray_pool import Ahead
from storage.fs import Store, open_store
from storage.shards import ShardError
from tests.integration.feed_sets import (
    STREAMS,
    WAYS,
    delivered,
    make_store,
    open_way,
    resume_points,
)

pytestmark = pytest.mark.ray
CPUS = 6
STOP, LONG = 12, 40
"Batches of a sweep, and of one in which actors die."


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = make_store(tmp_path_factory.mktemp("ray"))
    ray.shutdown()
    start_ray(cpus=CPUS)
    yield store
    ray.shutdown()


def test_a_wrong_address_is_told_soon() -> None:
    ray.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionError, match=f"Ray at 127.0.0.1:{port}: did not start or answer"):
        start_ray(f"127.0.0.1:{port}")


@pytest.fixture(scope="module")
def reference(store: Store) -> dict[str, list[list[str]]]:
    """The digests of every way's batches, built by the local feed one after another."""
    return {way: delivered(store, way, stop=LONG) for way in WAYS}


def on_ray(store: Store, way: str, ranks: int, actors: int, **values: Any) -> list[list[str]]:
    return delivered(store, way, ranks=ranks, workers=actors, kind="ray", **values)


def test_two_ranks_of_a_mixture_resume_with_the_batches_of_the_local_feed(
    store: Store, reference: dict[str, list[list[str]]]
) -> None:
    assert on_ray(store, "mixture", 2, 1, start=2, stop=11) == reference["mixture"][2:11]


CROSSED = [
    *itertools.product(["mixture"], (1, 2, 4), (0, 1, 2, 3)),
    *((way, *place) for way in STREAMS for place in ((1, 3), (2, 2), (4, 1))),
]
"The mixture holds batches of all datasets, so it alone meets every number of actors."


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("way", "ranks", "actors"), CROSSED)
def test_any_ranks_and_actors_from_any_batch(
    store: Store, reference: dict[str, list[list[str]]], way: str, ranks: int, actors: int
) -> None:
    """The Ray half of the crossing, held against the same digests as the local half."""
    for start in resume_points(STOP, way, ranks, actors):
        got = on_ray(store, way, ranks, actors, start=start, stop=STOP)
        assert got == reference[way][start:STOP]


def test_what_is_built_ahead_keeps_within_its_bytes() -> None:
    ahead = Ahead(budget=100)
    assert ahead.promise(0, stream=0)
    assert not ahead.promise(1, stream=0), "the first may be as large as all"
    ahead.came(0, 0, 40)
    assert ahead.promise(1, stream=0)
    assert not ahead.promise(2, stream=1), "the first of another stream, too"
    assert not ahead.promise(2, stream=0)
    del ahead.promised[0]
    assert ahead.promise(2, stream=0)
    del ahead.promised[1], ahead.promised[2]
    assert ahead.promise(3, stream=1)
    ahead.came(3, 1, 400)
    assert not ahead.promise(4, stream=0)
    del ahead.promised[3]
    assert ahead.promise(4, stream=1), "one larger than the budget goes alone"
    assert not ahead.promise(5, stream=0)


def builders() -> list[psutil.Process]:
    """Return the actors that run."""
    below = psutil.Process().children(recursive=True)
    return [child for child in below if child.name().startswith("ray::_Builder")]


def wait_until_they_ended() -> None:
    _, alive = psutil.wait_procs(builders(), timeout=60)
    assert not alive


def kill_a_builder(feeds: list[Feed]) -> None:
    """Kill an actor, as its machine does when it has no memory left."""
    builders()[0].kill()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("ranks", "actors"), [(1, 2), (2, 1), (2, 2)])
def test_killed_actors_change_no_batch(
    store: Store, reference: dict[str, list[list[str]]], ranks: int, actors: int
) -> None:
    for start in resume_points(LONG // 2, ranks, actors):
        harm = dict.fromkeys((1, 7, 15), kill_a_builder)
        got = on_ray(store, "mixture", ranks, actors, start=start, stop=LONG, harm=harm)
        assert got == reference["mixture"][start:]
        wait_until_they_ended()


@dataclass(frozen=True, slots=True)
class Fatal(Course):
    """A course with a batch that ends the process, as a fault in a decoder does."""

    def build(self, task: Task) -> Told:
        """Build a batch, save one."""
        if task == self.task(3):
            os._exit(11)
        return self.builders[task.stream].build_told(task.places, task.epoch)


@pytest.mark.slow
def test_a_batch_that_kills_each_actor_is_named(store: Store) -> None:
    course = open_way(store, "image", stop=1).course
    fatal = Fatal(course.builders, course.orders, course.turns)
    stream = RayStream(fatal, range(8), actors=2)
    got = []
    with pytest.raises(WorkerDiedError, match=r"3 actors died as they built batch 3.* of image: "):
        got.extend(stream)
    assert len(got) <= 3
    wait_until_they_ended()


@pytest.mark.slow
def test_damage_is_told_as_by_the_local_feed(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.uri, tmp_path / "store")
    for shard in (tmp_path / "store/datasets/image").rglob("shard-*.tar"):
        data = bytearray(shard.read_bytes())
        data[700] ^= 1
        shard.write_bytes(data)
    damaged = open_store(tmp_path / "store")
    told = []
    for kind in ("local", "ray"):
        with pytest.raises(ShardError) as error:
            list(open_feed(damaged, STREAMS["image"], stop=4, kind=kind))
        told.append(str(error.value))
    assert told[0] == told[1]


@pytest.mark.slow
def test_a_slow_trainer_holds_the_actors_back(store: Store) -> None:
    """G11: what is built ahead stays within its bytes."""
    course = open_way(store, "image", stop=1).course
    batch, _ = course.build(course.task(0))
    size = sum(value.numel() * value.element_size() for value in batch.values())
    stream = RayStream(course, range(100), actors=2, budget=5 * size)
    for number, _ in enumerate(stream):
        time.sleep(0.3)
        assert stream.pool is not None
        assert len(stream.pool.ahead.promised) <= 5
        assert sum(stream.pool.ahead.promised.values()) <= 5 * size
        if number == 8:
            assert len(stream.pool.built) == 4, "what room there is, is used"
            break
    stream.close()
    wait_until_they_ended()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_does_not_grow_with_batches(store: Store) -> None:
    """T11: resident memory of trainer and actors over 10^4 batches."""
    resident = {}
    for number, _ in enumerate(open_way(store, "image", stop=10_000, kind="ray", workers=2)):
        if number in (2000, 9900):
            everyone = [psutil.Process(), *builders()]
            assert len(everyone) == 3
            resident[number] = [process.memory_info().rss / 2**20 for process in everyone]
    grown = [after - before for before, after in zip(*resident.values(), strict=True)]
    assert max(grown) < 4, "MiB over 7,900 batches"
