"""A run while it trains: what is logged, saved, drawn and summed up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from storage.fs import Store
from training.assemble import snapshot_state
from training.checkpoints import write_checkpoint
from training.loop import Batch, Hooks, Trainer, heldout_loss
from training.pictures import draw_sheet
from training.ranks import Place, StopFlag, bare
from training.recipe import Recipe
from training.runs import Metrics

Progress = Callable[[str, int, int], None]
FLUSH_SECONDS = 5.0
PICTURED = 4


@dataclass(kw_only=True, slots=True)
class Session:
    """A run that is being trained."""

    store: Store
    recipe: Recipe
    run: str
    place: Place
    trainer: Trainer
    metrics: Metrics
    heldout: Iterable[Batch] | None
    example: Batch
    "a few samples for the pictures"
    batches_per_epoch: int


def pick_example(heldout: Iterable[Batch] | None, first: Batch) -> Batch:
    """Return the first few samples of the held-out batches, or of the first batch."""
    batch = next(iter(heldout)) if heldout is not None else first
    return {n: v[:PICTURED] if isinstance(v, torch.Tensor | list) else v for n, v in batch.items()}


def make_hooks(session: Session, stop: StopFlag, progress: Progress | None) -> Hooks:
    """Return what happens beside the steps of a session; only the first rank writes."""
    recipe, metrics = session.recipe, session.metrics
    flushed = time.monotonic()

    def log(line: dict[str, Any]) -> None:
        nonlocal flushed
        for name in {"samples", "samples_per_second"} & set(line):
            line[name] *= session.place.ranks
        line["epoch"] = round(line["step"] / session.batches_per_epoch, 4)
        metrics.add(line)
        if session.place.first and time.monotonic() - flushed > FLUSH_SECONDS:
            metrics.flush()
            flushed = time.monotonic()

    def save(step: int) -> None:
        if not session.place.first:
            return
        metrics.flush()
        _draw(session, step)
        state = snapshot_state(session.trainer, step)
        write_checkpoint(session.store, session.run, step, state, recipe.keep)

    def heldout() -> float | None:
        if session.heldout is None or not recipe.data.heldout:
            return None
        return heldout_loss(_alone(session.trainer), session.heldout, recipe.data.heldout)

    def tick(step: int) -> bool:
        if progress is not None:
            progress(f"pretrain {session.run}", step, recipe.steps)
        return bool(stop)

    return Hooks(
        log=log,
        save=save,
        heldout=heldout,
        tick=tick,
        log_every=recipe.log_every,
        save_every=recipe.save_every,
        heldout_every=recipe.heldout_every,
    )


def _alone(trainer: Trainer) -> Trainer:
    """Return the trainer with the bare model: what one rank does alone must not wait for others."""
    return replace(trainer, model=bare(trainer.model))


def _draw(session: Session, step: int) -> None:
    sheet = draw_sheet(_alone(session.trainer), session.example)
    session.store.write(f"runs/{session.run}/pictures/step-{step:08d}.png", sheet)


def sum_up(
    run: str, recipe: Recipe, lines: list[dict[str, Any]], parameters: int
) -> dict[str, Any]:
    """Return the summary of a run from the lines of its log."""
    steps = [line for line in lines if "loss" in line]
    heldout = [line["heldout_loss"] for line in lines if "heldout_loss" in line]
    seconds = sum(line["seconds"] for line in steps)
    waited = sum(line["data_wait_share"] * line["seconds"] for line in steps)
    samples = sum(line["samples"] for line in steps)
    return {
        "run": run,
        "recipe": recipe.name,
        "step": lines[-1]["step"],
        "steps": recipe.steps,
        "first_loss": steps[0]["loss"],
        "loss": steps[-1]["loss"],
        "first_heldout_loss": heldout[0] if heldout else None,
        "heldout_loss": heldout[-1] if heldout else None,
        "samples_per_second": samples / seconds,
        "data_wait_share": waited / seconds,
        "seconds": seconds,
        "parameters": parameters,
    }
