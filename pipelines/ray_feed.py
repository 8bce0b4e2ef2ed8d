"""The Ray feed: the same batches as the local one, built by Ray actors, in order, one stream a
rank.

A batch is a function of its number. So an actor is handed a number and reads, decodes, masks and
joins; whatever is lost with an actor or a node is asked for again, and batches are passed on by
their number, whoever built them and whenever. These are plain actors and not a pipeline of Ray
Data: that has to be told the whole sequence before it starts, which a run without end or one that
resumes anywhere has not; its pool starts anew for each piece, and it holds rows where this holds
batches. What that costs is in docs/cluster.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError

from pipelines.batch import Told
from pipelines.decode_choice import Decode, agree, find_here, wants_gpu, without_gpu
from pipelines.mixture import Course
from pipelines.ray_code import Driver
from pipelines.ray_jobs import (
    cause,
    cluster_cpus,
    cluster_gpus,
    start_ray,
    started_here,
    this_driver,
)
from pipelines.ray_pool import ACTOR_CPUS, Pool, gpu_share
from pipelines.worker import use_one_thread

FIRST_BATCH_SECONDS = 300.0
"Deadline of the first batch; actors that find no room would otherwise be waited for without end."
BATCH_SECONDS = 600.0
"Deadline of every other batch."
AHEAD_BYTES = 256 * 2**20
"Of batches that are built, or being built, and not yet taken; of one rank."


class RayStream:
    """Batches of one rank, by their numbers, from `actors` Ray actors of its own."""

    def __init__(
        self,
        course: Course,
        numbers: range,
        actors: int = 1,
        *,
        budget: int = AHEAD_BYTES,
        first_seconds: float = FIRST_BATCH_SECONDS,
    ) -> None:
        self.course, self.numbers, self.actors = course, numbers, actors
        self.budget, self.first_seconds = budget, first_seconds
        self.pool: Pool | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Told]:
        start_ray()
        ranks = 1 if started_here() else self.course.ranks
        check_room(self.actors, ranks)
        self.close()
        gpus = gpu_share(self.actors * ranks) if wants_gpu(self.course) else 0.0
        pool = self.pool = Pool(self.course, self.numbers, self.actors, self.budget, gpus)
        seconds = self.first_seconds
        here = ray.get_runtime_context().get_node_id()
        try:
            for number in self.numbers:
                arrays, about, node = pool.take(number, seconds)
                seconds = BATCH_SECONDS
                batch = {name: _own(value) for name, value in arrays.items()}
                # The clock of another machine says nothing of the way here.
                yield batch, about if node == here else about._replace(done=0.0)
        finally:
            pool.close()

    def close(self) -> None:
        """End the actors."""
        if self.pool is not None:
            self.pool.close()


def settle_on_ray(course: Course, actors: int) -> Decode:
    """Return who decodes for a Ray feed, the same on every rank.

    Raises:
        DeviceError: a GPU is asked for, and the cluster has none, or it cannot decode a stream.
    """
    start_ray()
    if not cluster_gpus():
        return agree(course, without_gpu(course, "the Ray cluster has no GPU"))
    if wants_gpu(course):
        return Decode("gpu", "asked for")  # each actor tries its own as it starts
    share = gpu_share(max(actors, 1) * course.ranks)
    task = ray.remote(num_cpus=ACTOR_CPUS, num_gpus=share)(_found_there)
    try:
        found = ray.get(task.remote(this_driver(), course, actors), timeout=FIRST_BATCH_SECONDS)
    except RayTaskError as error:
        raise cause(error) from None
    return agree(course, found)


def _found_there(driver: Driver, course: Course, actors: int) -> Decode:
    """Find out on a node of the cluster that has a GPU."""
    driver.be_like()
    use_one_thread()
    return find_here(course, actors)


def _own(value: Any) -> torch.Tensor:
    """Copy an array out of the object store, where nobody may write and room is short."""
    tensor = torch.from_numpy(value.copy())
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def check_room(actors: int, ranks: int) -> None:
    """Refuse to start what can never run: Ray would wait for room without a word.

    Raises:
        RuntimeError: the cluster has too few CPUs.
    """
    needed, cpus = ranks * actors * ACTOR_CPUS, cluster_cpus()
    if needed > cpus:
        raise RuntimeError(
            f"ray feed: {actors} actors of {ACTOR_CPUS:g} CPU for each rank (here {ranks}) need "
            f"{needed:g} CPUs, the cluster has {cpus:g}. They would wait for ever. Use fewer "
            "--workers, a larger cluster, or --feed local."
        )
