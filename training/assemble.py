"""From a recipe and what the data decide to a trainer."""

from __future__ import annotations

from typing import Any

import torch

from preprocessing.indices import band_numbers
from training.average import Average
from training.compiled import compile_blocks
from training.drop_path import drop_paths
from training.guard import Guard
from training.inputs import InputNorm
from training.loop import Batch, Trainer
from training.models.config import ModelInput
from training.models.families import build_model
from training.objectives import Objective
from training.optim import make_optimizer, rate_of
from training.ranks import Place, spread
from training.recipe import Recipe
from training.recompute import recompute_blocks
from training.seen_targets import seen_width


def about_input(
    recipe: Recipe, batch: Batch, channels: list[str], stats: dict[str, list[float]]
) -> dict[str, Any]:
    """Return what the data decide about the model; recorded, so that a run's encoder can be built
    again.
    """
    shape = batch["pixels"].shape
    names = list(recipe.data.bands) or [name for group in recipe.model.groups for name in group]
    if names and channels:
        if stats and len(stats["mean"]) != len(channels):
            raise ValueError(
                f"the dataset names {len(channels)} channels, most of its samples have "
                f"{len(stats['mean'])}; statistics of such a mixture fit none of them. Ingest "
                "samples that differ in their channels as datasets of their own."
            )
        picked = band_numbers(channels, names)
        stats = {name: [values[i] for i in picked] for name, values in stats.items()}
    widths = {}
    for target in recipe.target:
        if target.kind == "pixels":
            widths["pixels"] = 0  # the model's family knows how many
        elif target.source == "inputs":
            widths[target.kind] = seen_width(target, shape[1], recipe.model.patch)
        else:
            widths[target.kind] = batch[f"targets.{target.kind}"].shape[-1]
    return {
        "channels": names or channels,
        "shape": list(shape[1:]),
        "stats": stats,
        "widths": widths,
    }


def make_trainer(recipe: Recipe, about: dict[str, Any], place: Place) -> Trainer:
    """Return a trainer at its first state: a pure function of the recipe and of what the data
    decide.
    """
    torch.manual_seed(recipe.seed)
    shape = about["shape"]
    model = build_model(recipe.model, model_input(recipe, about))
    model.to(place.device)
    if recipe.compile:
        compile_blocks(model, place.device)
    if recipe.recompute:
        recompute_blocks(model)
    inputs = InputNorm(recipe.model.norm_input, shape[0], about["stats"]).to(place.device)
    return Trainer(
        model=spread(model, place),
        inputs=inputs,
        objective=Objective(
            recipe.target, model.layout, about.get("channels") or (), inputs.levels
        ),
        optimizer=make_optimizer(model, recipe.optim),
        rate=rate_of(recipe.optim, recipe.steps, first_task=recipe.begin.count == "on"),
        device=place.device,
        clip=recipe.optim.clip,
        accumulate=recipe.accumulate,
        precision=recipe.precision,
        scaler=torch.amp.GradScaler(place.device.type, enabled=recipe.precision == "fp16"),
        average=Average(model, recipe.ema) if recipe.ema else None,
        paths=drop_paths(model, recipe.drop_path, recipe.seed) if recipe.drop_path else None,
        guard=Guard(recipe.guard),
    )


def model_input(recipe: Recipe, about: dict[str, Any]) -> ModelInput:
    """Return what the data decide about the model; see `about_input`."""
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


def count_parameters(trainer: Trainer) -> int:
    """Return how many values a trainer learns."""
    return sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
