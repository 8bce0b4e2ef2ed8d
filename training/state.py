"""The state of a trainer: all that determines the steps to come, besides the data (G9)."""

from __future__ import annotations

from typing import Any

import torch

from training.loop import Trainer
from training.ranks import bare


def snapshot_state(trainer: Trainer, step: int) -> dict[str, Any]:
    """Return all that determines the steps after `step`, and the log lines after it."""
    state = {
        "step": step,
        "model": bare(trainer.model).state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "generator": torch.get_rng_state(),
        "window": trainer.window.saved(),
        "good": list(trainer.guard.good),
    }
    if trainer.device.type == "cuda":
        state["cuda_generator"] = torch.cuda.get_rng_state(trainer.device)
    if trainer.scaler.is_enabled():
        state["scaler"] = trainer.scaler.state_dict()
    if trainer.average is not None:
        state["average"] = trainer.average.values
    return state


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Set a trainer to the state of a checkpoint; one of version 1 has fewer parts."""
    restore_weights(trainer, state)
    torch.set_rng_state(state["generator"].cpu())
    trainer.window.figures = list(state.get("window", []))
    trainer.guard.good = list(state.get("good", []))
    if "cuda_generator" in state and trainer.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda_generator"].cpu(), trainer.device)


def restore_weights(trainer: Trainer, state: dict[str, Any]) -> None:
    """Give a trainer the weights of a checkpoint, and the optimiser that goes with them."""
    bare(trainer.model).load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    if "scaler" in state:
        trainer.scaler.load_state_dict(state["scaler"])
    if trainer.average is not None:
        trainer.average.load(state.get("average") or state["model"])


def kept_weights(state: dict[str, Any]) -> dict[str, Any]:
    """Return the weights that a run is judged and handed on by: the averaged ones, if it keeps
    them.
    """
    return {**state["model"], **state.get("average", {})}
