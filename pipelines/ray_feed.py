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

from pipelines.batch import Told
from pipelines.mixture import Course
from pipelines.ray_jobs import cluster_cpus, start_ray, started_here
from pipelines.ray_pool import ACTOR_CPUS, Pool

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
        check_room(self.actors, 1 if started_here() else self.course.ranks)
        self.close()
        pool = self.pool = Pool(self.course, self.numbers, self.actors, self.budget)
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
