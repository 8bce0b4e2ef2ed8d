"""Where the time of batches goes: what a trainer waited for, and what would help."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

STAGES = ("read", "verify", "decode", "mask", "join")
"what the building of a batch is split into; views count as decode, columns and targets as join"
MOST_WORKERS = 256
"that advice asks for"


class Clock:
    """Adds the time between laps to the stage that each lap ends; 0.2 us a lap."""

    __slots__ = ("_last", "seconds")

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now

    def move(self, seconds: float, source: str, target: str) -> None:
        """Move a part of one stage to another, as where a reader tells its own time."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds


@dataclass(slots=True)
class Stalls:
    """What a consumer of batches waited for, since the feed was opened."""

    workers: int
    waited: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys((*STAGES, "transfer"), 0.0)
    )
    "seconds that the consumer stood still, by what it stood still for"
    built: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    "seconds of building, wherever that was done"
    seconds: float = 0.0
    "since the first batch was asked for"
    batches: int = 0

    def add(self, asked: float, came: float, done: float, built: Mapping[str, float]) -> None:
        """Count one batch.

        Args:
            asked, came: when the consumer began and ceased to wait.
            done: when the batch was finished, in whatever process of this machine.
            built: seconds of each stage of its building.
        """
        handed = min(max(asked, done), came)
        total = sum(built.values()) or 1.0
        for stage, seconds in built.items():
            self.built[stage] += seconds
            self.waited[stage] += (handed - asked) * seconds / total
        self.waited["transfer"] += came - handed
        self.batches += 1

    def summary(self, share: float | None = None) -> dict[str, object]:
        """Return seconds waited in all and by stage, and the advice; `share` as there."""
        return {
            "batches": self.batches,
            "seconds": self.seconds,
            "waited": sum(self.waited.values()),
            **{f"waited_{stage}": seconds for stage, seconds in self.waited.items()},
            "advice": self.advice(share),
        }

    def advice(self, share: float | None = None) -> str:
        """Return one sentence: who waits for whom, and what would change it.

        Args:
            share: of its time that the consumer waited, by its own clock, which may leave out its
                start and what it does between steps; None takes the feed's.
        """
        if share is None:
            share = sum(self.waited.values()) / self.seconds if self.seconds else 0.0
        if not self.batches or share < 0.05:
            return f"step-bound: {share:.0%} of the time is spent waiting for data."
        worst = max(self.waited, key=lambda stage: self.waited[stage])
        found = f"{worst}-bound: {share:.0%} of the time is spent waiting for data"
        if worst == "transfer":
            return f"{found}; batches are ready but slow to arrive: use fewer or no workers."
        steps = max(self.seconds - share * self.seconds, 1e-9)
        needed = -(-sum(self.built.values()) // steps)
        if needed > MOST_WORKERS:
            return f"{found}; the steps take so little that workers could not hide it."
        if needed > self.workers:
            more = int(needed) - self.workers
            return f"{found}; {more} more worker{'s' * (more > 1)} would hide it."
        return f"{found}; batches come unevenly: look at slow storage or larger blocks."
