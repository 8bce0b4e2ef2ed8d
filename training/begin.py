"""Continued pretraining: a run that begins with the weights and the optimiser of another.

Counted on, over the same data, it is the longer run bit for bit, if both have the same rates so
far: under the infinite schedule with the phases given in steps, from a checkpoint before it
anneals ("Beyond Cosine Decay", arXiv:2503.02844). Counted anew, it learns from other data.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from storage.fs import Store
from training.checkpoints import CheckpointError, list_checkpoints, read_checkpoint
from training.loop import Trainer
from training.recipe import Recipe, make_recipe
from training.runs import read_record
from training.schedules import phase_ends
from training.state import restore, restore_weights


def pin_begin(store: Store, recipe: Recipe, record: dict[str, Any] | None) -> Recipe:
    """Return the recipe with the step that it begins from; of a run with a record, the recorded
    one.

    Raises:
        CheckpointError: the other run has no checkpoint to begin from.
    """
    begin = recipe.begin
    if not begin.run or begin.step:
        return recipe
    if record is not None:
        step = record["recipe"].get("begin", {}).get("step", 0)
        return replace(recipe, begin=replace(begin, step=step))
    source = read_record(store, begin.run)
    steps = list_checkpoints(store, begin.run)
    ends = spared_steps(make_recipe(source["recipe"])) if source else frozenset()
    fit = [step for step in steps if not ends or step <= min(ends)]
    if not fit:
        raise CheckpointError(
            f"begin: run {begin.run} has no checkpoint to begin from"
            f"{f' at or before step {min(ends)}, where it anneals' if ends else ''}; it has "
            f"{steps}. Give begin.step, or train it."
        )
    return replace(recipe, begin=replace(begin, step=fit[-1]))


def first_step(recipe: Recipe) -> int:
    """Return how many steps count as finished before the first one of a run.

    Raises:
        ValueError: that is all of them.
    """
    if not recipe.begin.run or recipe.begin.count == "anew":
        return 0
    if recipe.begin.step >= recipe.steps:
        raise ValueError(
            f"steps is {recipe.steps}, begin.step {recipe.begin.step}: no step is left, as steps "
            "are counted on. Give more steps, or begin.count=anew."
        )
    return recipe.begin.step


def load_begin(store: Store, recipe: Recipe, trainer: Trainer) -> None:
    """Give a trainer at its first step the state, or the weights, of the run it begins with."""
    begin = recipe.begin
    if begin.run:
        state = read_checkpoint(store, begin.run, begin.step, device=str(trainer.device))
        (restore if begin.count == "on" else restore_weights)(trainer, state)


def spared_steps(recipe: Recipe) -> frozenset[int]:
    """Return the steps whose checkpoints are written and kept in any case: the end of the infinite
    schedule's constant phase, from where a run can be continued.
    """
    if recipe.optim.schedule != "infinite":
        return frozenset()
    return frozenset({phase_ends(recipe.optim.infinite.ends, recipe.steps)[2]})
