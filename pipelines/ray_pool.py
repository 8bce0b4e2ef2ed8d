"""The actors of one rank: what each of them builds, what is built, and what died with one."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipelines.batch import About
from pipelines.decode_choice import find_here
from pipelines.mixture import Course
from pipelines.processes import ATTEMPTS, WorkerDiedError
from pipelines.ray_code import Driver, refuse_missing
from pipelines.ray_jobs import cause, cluster_gpus, this_driver, told_room
from pipelines.worker import use_one_thread

Arrays = dict[str, Any]
ACTOR_CPUS = 0.5
ACTOR_GPUS = 0.25
"Most of a GPU that an actor takes which decodes there: decoders leave most of one idle."
RESTARTS = 8
"Deaths before the start, of each actor and in a row, that are borne."
QUEUED = 2
"Batches that wait at an actor, with the one it builds."


@ray.remote(num_cpus=ACTOR_CPUS, scheduling_strategy="SPREAD")
class _Builder:
    """An actor: builds the batches whose numbers it is handed."""

    course: Course

    def ready(self, driver: Driver, shared: list[Any], gpu: bool) -> None:
        """Get ready to build what the driver would, on a GPU if it is to decode.

        Raises:
            OtherCodeError: this process runs other code.
            StoreError: it does not see the store.
            DeviceError: its GPU cannot decode.
        """
        driver.be_like()
        use_one_thread()
        self.course = ray.get(shared[0])
        for builder in self.course.builders:
            refuse_missing(builder.store_uri)
        if gpu:
            find_here(self.course, 1)

    def build(self, number: int) -> tuple[Arrays, About, str]:
        """Return a batch as arrays, what is told about it, and the node that built it."""
        batch, about = self.course.build(self.course.task(number))
        arrays = {name: value.numpy() for name, value in batch.items()}
        return arrays, about, ray.get_runtime_context().get_node_id()


@dataclass(slots=True, eq=False)
class _Actor:
    """An actor, and how many answers it owes."""

    handle: Any
    started: bool = False
    owes: int = 0


@dataclass(frozen=True, slots=True)
class _Call:
    """What an answer is an answer to; without a number it tells that the actor has started."""

    actor: _Actor
    number: int | None = None


@dataclass(slots=True)
class Ahead:
    """Bytes of the batches that are built ahead, promised before they are built.

    A batch is as large as the largest of its stream that was seen. The first of a stream may be as
    large as the whole budget, so it goes alone, as does one that is larger still.
    """

    budget: int
    largest: dict[int, int] = field(default_factory=dict)
    "bytes, by stream"
    promised: dict[int, int] = field(default_factory=dict)
    "bytes, by the number of the batch"

    def promise(self, number: int, stream: int) -> bool:
        """Make room for a batch, if there is any."""
        size = self.largest.get(stream, self.budget)
        if self.promised and sum(self.promised.values()) + size > self.budget:
            return False
        self.promised[number] = size
        return True

    def came(self, number: int, stream: int, size: int) -> None:
        """Tell how large a batch is."""
        self.promised[number] = size
        self.largest[stream] = max(size, self.largest.get(stream, 0))


class Pool:
    """The actors of one rank, what each of them builds, and what is built."""

    def __init__(
        self, course: Course, numbers: range, actors: int, budget: int, gpus: float = 0.0
    ) -> None:
        self.course, self.ahead, self.gpus = course, Ahead(budget), gpus
        self.shared = ray.put(course)
        self.following = iter(numbers)
        self.next: int | None = next(self.following, None)
        self.calls: dict[Any, _Call] = {}
        self.lost: list[int] = []
        "numbers that died with an actor, to be built again before all others"
        self.built: dict[int, tuple[Arrays, About, str]] = {}
        self.deaths: dict[int | None, int] = {}
        "of actors that built a number; under None, of those that never started"
        self.actors = [self._start() for _ in range(actors)]

    def take(self, number: int, seconds: float) -> tuple[Arrays, About, str]:
        """Return a batch, which must be the lowest that was not taken yet.

        Raises:
            TimeoutError: it did not come in time.
            WorkerDiedError: its actors died each time.
        """
        deadline = time.monotonic() + seconds
        self._listen()
        while number not in self.built:
            self._hand_out()
            left = max(deadline - time.monotonic(), 0.0)
            done, _ = ray.wait(list(self.calls), num_returns=1, timeout=left)
            if not done:
                raise TimeoutError(self._late(number, seconds))
            self._answer(done[0])
        del self.ahead.promised[number]
        self._hand_out()
        return self.built.pop(number)

    def close(self) -> None:
        """End the actors and forget what they built."""
        for actor in self.actors if ray.is_initialized() else ():
            ray.kill(actor.handle)
        self.actors, self.calls, self.built = [], {}, {}

    def _listen(self) -> None:
        """Take all answers that are there, so that actors get more to do."""
        if self.calls:
            for reference in ray.wait(list(self.calls), num_returns=len(self.calls), timeout=0)[0]:
                if reference in self.calls:
                    self._answer(reference)

    def _start(self) -> _Actor:
        actor = _Actor(_Builder.options(num_gpus=self.gpus).remote())
        ready = actor.handle.ready.remote(this_driver(), [self.shared], self.gpus > 0)
        self.calls[ready] = _Call(actor)
        return actor

    def _hand_out(self) -> None:
        """Give numbers to actors, to those that owe least first, as long as there is room."""
        while free := [a for a in self.actors if a.started and a.owes < QUEUED]:
            number = self._following()
            if number is None:
                return
            actor = min(free, key=lambda one: one.owes)
            actor.owes += 1
            self.calls[actor.handle.build.remote(number)] = _Call(actor, number)

    def _following(self) -> int | None:
        """Return the number to build next, if there is one and room for it."""
        if self.lost:
            self.lost.sort()
            return self.lost.pop(0)
        number = self.next
        if number is None or not self.ahead.promise(number, self._stream(number)):
            return None
        self.next = next(self.following, None)
        return number

    def _stream(self, number: int) -> int:
        return self.course.turns.locate(number)[0]

    def _answer(self, reference: Any) -> None:
        """Take what an actor said, or its death."""
        call = self.calls.pop(reference)
        try:
            found = ray.get(reference)
        except RayTaskError as error:
            raise cause(error) from None
        except RayError as error:
            self._replace(call, error)
            return
        self.deaths.pop(call.number, None)
        if call.number is None:
            call.actor.started = True
            return
        call.actor.owes -= 1
        size = sum(value.nbytes for value in found[0].values())
        self.ahead.came(call.number, self._stream(call.number), size)
        self.built[call.number] = found

    def _replace(self, call: _Call, error: RayError) -> None:
        """Start an actor in place of a dead one; have what it owed built again.

        Raises:
            WorkerDiedError: actors died each time with the same batch, or before they started.
        """
        owed = {r: c for r, c in self.calls.items() if c.actor is call.actor}
        numbers = [c.number for c in (*owed.values(), call) if c.number is not None]
        for reference in owed:
            del self.calls[reference]
        self.lost.extend(numbers)
        # An actor builds in the order it was asked, so the first that it owes was under way.
        culprit = min(numbers, default=None)
        deaths = self.deaths[culprit] = self.deaths.get(culprit, 0) + 1
        if deaths == (RESTARTS * len(self.actors) if culprit is None else ATTEMPTS):
            raise WorkerDiedError(self._killed(culprit, deaths, error)) from error
        self.actors.remove(call.actor)
        ray.kill(call.actor.handle)
        self.actors.append(self._start())

    def _killed(self, number: int | None, deaths: int, error: RayError) -> str:
        what = "before they started" if number is None else f"as they built batch {number}"
        where = ""
        if number is not None:
            task = self.course.task(number)
            dataset = self.course.builders[task.stream].stream.dataset
            where = f" The batch, as (shard, row) of {dataset}: {task.places[:8]}"
        return (
            f"ray feed: {deaths} actors died {what}. Look for 'Out of memory', or a "
            f"fault of a library, in the log of its node. Ray says: {_last_line(error)}.{where}"
        )

    def _late(self, number: int, seconds: float) -> str:
        started = sum(actor.started for actor in self.actors)
        return (
            f"ray feed: batch {number} did not come in {seconds:g} s. {started} of "
            f"{len(self.actors)} actors run, which want {ACTOR_CPUS:g} CPU each; {told_room()}"
        )


def gpu_share(actors: int) -> float:
    """Return how much of a GPU each of so many actors asks for, so that all find room."""
    return min(ACTOR_GPUS, math.floor(1000 * cluster_gpus() / actors) / 1000)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")
