"""The encoder of a run, frozen: built again from its record, and as bytes that need no recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from storage.fs import Store
from training.assemble import make_trainer
from training.checkpoints import list_checkpoints, read_checkpoint
from training.inputs import InputNorm
from training.loop import Trainer
from training.ranks import Place, bare
from training.recipe import Recipe, make_recipe
from training.runs import read_run
from training.state import kept_weights

FAMILIES = ("mae", "maskfeat", "videomae")
"Whose encoders are plain vision transformers, with all patches as tokens."
_PARTS = ("patch_embed.", "cls_token", "pos_embed", "blocks.", "norm.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A run's model after one of its steps."""

    run: str
    step: int
    recipe: Recipe
    about: dict[str, Any]
    "what the data decided: shape of a sample, channels, statistics, widths of the targets"
    model: nn.Module
    inputs: InputNorm


def read_trained(store: Store, run: str, step: int | None = None) -> Trained:
    """Return a run's model with the weights of a checkpoint.

    Args:
        step: of the checkpoint; None takes the newest.

    Raises:
        ValueError: no such run.
        CheckpointError: it has no such checkpoint.
    """
    record = read_run(store, run)
    trainer = fresh_trainer(record, torch.device("cpu"))
    load_kept(trainer, store, run, step)
    return Trained(
        run=run,
        step=list_checkpoints(store, run)[-1] if step is None else step,
        recipe=make_recipe(record["recipe"]),
        about=record["input"],
        model=bare(trainer.model).eval(),
        inputs=trainer.inputs,
    )


def fresh_trainer(record: dict[str, Any], device: torch.device) -> Trainer:
    """Return the trainer that a run began with, by its record: untrained, alone on a device."""
    return make_trainer(make_recipe(record["recipe"]), record["input"], Place(0, 1, device))


def load_kept(trainer: Trainer, store: Store, run: str, step: int | None = None) -> None:
    """Give a trainer the weights of a run's checkpoint, the averaged ones if it has them; None
    takes the newest.

    Raises:
        CheckpointError: it has no such checkpoint.
    """
    state = read_checkpoint(store, run, step, device=str(trainer.device))
    bare(trainer.model).load_state_dict(kept_weights(state))


def encoder_bytes(store: Store, run: str, step: int | None = None) -> bytes:
    """Return a run's encoder as safetensors in timm's layout: what the column `features` looks
    through.

    Beside the weights it holds `input.heads`, and how inputs are normalised: `input.mean` and
    `input.std` in raw units (`input.clip`: then cut to [0, 1]), or `input.self`.

    Raises:
        ValueError: no such run, or its encoder is no plain vision transformer.
        CheckpointError: it has no such checkpoint.
    """
    trained = read_trained(store, run, step)
    family = trained.recipe.model.family
    if family not in FAMILIES:
        raise ValueError(
            f"features: run {run} is of the family {family}; the column takes "
            f"{', '.join(FAMILIES)}. Use a run of one of these, or a safetensors file."
        )
    tensors = {**encoder_weights(trained.model), **_input(trained.inputs)}
    if hasattr(inner := encoder_of(trained.model), "places"):
        tensors["pos_embed"] = inner.places
    tensors["input.heads"] = torch.tensor(trained.recipe.model.heads)
    return safetensors.torch.save({name: t.contiguous() for name, t in tensors.items()})


def encoder_of(model: nn.Module) -> nn.Module:
    """Return the part of a model that its encoder's weights lie in."""
    return getattr(model, "encoder", model)


def encoder_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a plain vision transformer under timm's names."""
    found = encoder_of(model).state_dict()
    return {name: value for name, value in found.items() if name.startswith(_PARTS)}


def _input(norm: InputNorm) -> dict[str, Tensor]:
    if norm.kind == "self":
        return {"input.self": torch.tensor(1)}
    cut = {"input.clip": torch.tensor(1)} if norm.levels else {}
    return {"input.mean": norm.mean, "input.std": norm.std, **cut}
