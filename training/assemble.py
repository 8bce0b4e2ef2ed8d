"""From a recipe and what the data decide to a trainer, and the state that a checkpoint holds."""

from __future__ import annotations

from typing import Any

import torch

from training.inputs import InputNorm
from training.loop import Batch, Trainer
from training.models.config import ModelInput
from training.models.families import build_model
from training.objectives import Objective
from training.optim import make_optimizer
from training.ranks import Place, bare, spread
from training.recipe import Recipe
from training.schedules import schedule_named


def about_input(
    recipe: Recipe, batch: Batch, channels: list[str], stats: dict[str, list[float]]
) -> dict[str, Any]:
    """Return what the data decide about the model; recorded, so that a run's encoder can be built
    again.
    """
    shape = batch["pixels"].shape
    names = list(recipe.data.bands) or [name for group in recipe.model.groups for name in group]
    if names and channels:
        picked = [channels.index(name) for name in names]
        stats = {name: [values[i] for i in picked] for name, values in stats.items()}
    widths = {t.kind: 0 for t in recipe.target if t.kind == "pixels"}
    for target in recipe.target:
        if target.kind != "pixels":
            widths[target.kind] = batch[f"targets.{target.kind}"].shape[-1]
    ordered = {target.kind: widths[target.kind] for target in recipe.target}
    return {
        "channels": names or channels,
        "shape": list(shape[1:]),
        "stats": stats,
        "widths": ordered,
    }


def make_trainer(recipe: Recipe, about: dict[str, Any], place: Place) -> Trainer:
    """Return a trainer at its first state: a pure function of the recipe and of what the data
    decide.
    """
    torch.manual_seed(recipe.seed)
    shape = about["shape"]
    model = build_model(recipe.model, _model_input(recipe, about))
    layout = model.layout
    model.to(place.device)
    optim = recipe.optim
    return Trainer(
        model=spread(model, place),
        inputs=InputNorm(recipe.model.norm_input, shape[0], about["stats"]).to(place.device),
        objective=Objective(recipe.target, layout),
        optimizer=make_optimizer(model, optim),
        rate=schedule_named(
            optim.schedule,
            peak=optim.lr,
            low=optim.min_lr,
            warmup=optim.warmup,
            total=recipe.steps,
        ),
        device=place.device,
        clip=optim.clip,
        accumulate=recipe.accumulate,
        precision=recipe.precision,
    )


def _model_input(recipe: Recipe, about: dict[str, Any]) -> ModelInput:
    shape = about["shape"]
    groups, start = [], 0
    for group in recipe.model.groups:
        groups.append(tuple(range(start, start + len(group))))
        start += len(group)
    return ModelInput(
        channels=shape[0],
        size=recipe.view.size,
        frames=shape[1] if len(shape) == 4 else 1,
        groups=tuple(groups),
        widths=about["widths"],
    )


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Set a trainer to the state of a checkpoint."""
    bare(trainer.model).load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["generator"].cpu())


def snapshot_state(trainer: Trainer, step: int) -> dict[str, Any]:
    """Return all that determines the steps after `step`, besides the data."""
    return {
        "step": step,
        "model": bare(trainer.model).state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "generator": torch.get_rng_state(),
    }


def count_parameters(trainer: Trainer) -> int:
    """Return how many values a trainer learns."""
    return sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
