"""The Ray feed in this process's Ray: bit for bit the local feed, for any ranks, actors and
beginning (G8, G9, T10)."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import ray

from pipelines.ray_jobs import start_ray
from pipelines.ray_pool import Ahead
from storage.fs import Store
from tests.integration.feed_sets import WAYS, all_ranks, make_store, open_way, same

pytestmark = pytest.mark.ray
CPUS = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = make_store(tmp_path_factory.mktemp("ray"))
    ray.shutdown()
    start_ray(cpus=CPUS)
    yield store
    ray.shutdown()


def check(store: Store, way: str, ranks: int, actors: int, start: int, stop: int) -> None:
    """Compare the global batches of all ranks on Ray with one local feed."""
    where = {"ranks": ranks, "start": start, "stop": stop, "kind": "ray", "workers": actors}
    feeds = [open_way(store, way, rank=rank, **where) for rank in range(ranks)]
    wanted = list(open_way(store, way, start=start, stop=stop))
    got = list(all_ranks(feeds))
    for feed in feeds:
        feed.close()
    assert len(got) == len(wanted) == stop - start
    assert all(same(a, b) for a, b in zip(got, wanted, strict=True))


def test_two_ranks_of_a_mixture_resume_with_the_batches_of_the_local_feed(store: Store) -> None:
    check(store, "mixture", ranks=2, actors=1, start=2, stop=11)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_ranks_and_actors_from_any_batch(store: Store, way: str, ranks: int) -> None:
    rng = random.Random(f"{way} {ranks}")
    for actors in (1, 2, 3):
        start = rng.randrange(30)
        check(store, way, ranks, actors, start, start + rng.randrange(5, 12))


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
