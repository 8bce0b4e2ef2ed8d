"""Training whose CPU time is noted at each checkpoint, and figures of the encoder at some of them.

On a machine that others use too, seconds of a clock say little; CPU seconds of the one process that
trains, reads and evaluates say what it took. Twenty minutes of two cores are 2,400 of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pipelines.feed import open_eval
from storage.fs import Store
from training.features import encode
from training.feeds import eval_stream
from training.frozen import fresh_trainer, load_kept
from training.heldout import effective_rank
from training.pretrain import pretrain
from training.probes import knn_right, linear_right
from training.recipe import Recipe, make_recipe
from training.runs import read_record, read_run, write_record

CPU = "cpu.json"
"CPU seconds that a run had taken before each of its checkpoints, beside its other records"


@dataclass(slots=True)
class Clock:
    """CPU seconds of this process since the run began, noted before each checkpoint is written."""

    store: Store
    recipe: Recipe
    run: str
    marks: dict[str, float]
    last: float = field(default_factory=time.process_time)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Note the time after a step, as `pretrain` tells its progress."""
        if done % self.recipe.save_every and done != total:
            return
        before = max((int(step) for step in self.marks if int(step) < done), default=0)
        now = time.process_time()
        self.marks[str(done)] = self.marks.get(str(before), 0.0) + now - self.last
        self.last = now
        write_record(self.store, self.run, CPU, self.marks)


def train_timed(store: Store, recipe: Recipe, run: str) -> None:
    """Train what is left of a run in this one process; every checkpoint is kept."""
    if read_record(store, run, "summary.json") is None:
        clock = Clock(store, recipe, run, dict(read_record(store, run, CPU) or {}))
        pretrain(store, recipe, run=run, resume=True, workers=0, progress=clock)


def measure(
    store: Store, run: str, step: int, datasets: tuple[str, str], samples: int
) -> dict[str, Any]:
    """Return kNN and linear accuracy and the effective rank of a run's encoder after a step.

    Args:
        step: of a checkpoint; 0 is the untrained encoder.
        datasets: which teaches the probes, and which is asked and has the rank measured.
        samples: most that are taught, and asked. What was measured before is not measured again.
    """
    name = f"curve/step-{step:08d}-{samples}.json"
    if (known := read_record(store, run, name)) is not None:
        return known
    record = read_run(store, run)
    recipe = make_recipe(record["recipe"])
    trainer = fresh_trainer(record, torch.device("cpu"))
    if step:
        load_kept(trainer, store, run, step)
    taught, asked = (
        encode(trainer, open_eval(store, replace(eval_stream(recipe, d), samples=samples))).features
        for d in datasets
    )
    seconds = (read_record(store, run, CPU) or {}).get(str(step), 0.0)
    found = {
        "step": step,
        "cpu_seconds": seconds,
        "knn": float(knn_right(taught, asked).float().mean()),
        "linear": float(linear_right(taught, asked).float().mean()),
        "effective_rank": effective_rank(asked[0]),
        "taught": len(taught[1]),
        "asked": len(asked[1]),
    }
    write_record(store, run, name, found)
    return found
