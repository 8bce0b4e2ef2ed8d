"""The encoder of a run as bytes that need no recipe: what the column `features` looks through."""

from __future__ import annotations

import safetensors.torch
import torch
from torch import Tensor, nn

from storage.fs import Store
from training.assemble import make_trainer
from training.checkpoints import read_checkpoint
from training.inputs import InputNorm
from training.ranks import Place, bare
from training.recipe import make_recipe
from training.runs import read_record

FAMILIES = ("mae", "maskfeat", "videomae")
"Whose encoders are plain vision transformers, with all patches as tokens."
_PARTS = ("patch_embed.", "cls_token", "pos_embed", "blocks.", "norm.")


def encoder_bytes(store: Store, run: str, step: int | None = None) -> bytes:
    """Return a run's encoder as safetensors in timm's layout.

    Beside the weights it holds `input.heads`, and how inputs are normalised: `input.mean` and
    `input.std` in raw units (`input.clip`: then cut to [0, 1]), or `input.self`.

    Args:
        step: of the checkpoint; None takes the newest.

    Raises:
        ValueError: no such run, or its encoder is no plain vision transformer.
        CheckpointError: it has no such checkpoint.
    """
    record = read_record(store, run)
    if record is None:
        raise ValueError(f"features: there is no run {run!r} in {store.uri}. See 'headrace ls'.")
    recipe = make_recipe(record["recipe"])
    if recipe.model.family not in FAMILIES:
        raise ValueError(
            f"features: run {run} is of the family {recipe.model.family}; the column takes "
            f"{', '.join(FAMILIES)}. Use a run of one of these, or a safetensors file."
        )
    trainer = make_trainer(recipe, record["input"], Place(0, 1, torch.device("cpu")))
    model = bare(trainer.model)
    model.load_state_dict(read_checkpoint(store, run, step)["model"])
    tensors = {**_encoder(model), **_input(trainer.inputs)}
    tensors["input.heads"] = torch.tensor(recipe.model.heads)
    return safetensors.torch.save({name: t.contiguous() for name, t in tensors.items()})


def _encoder(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the encoder under timm's names, with its table of positions."""
    inner = getattr(model, "encoder", model)
    found = {n: t for n, t in inner.state_dict().items() if n.startswith(_PARTS)}
    if hasattr(inner, "places"):
        found["pos_embed"] = inner.places
    return found


def _input(norm: InputNorm) -> dict[str, Tensor]:
    if norm.kind == "self":
        return {"input.self": torch.tensor(1)}
    if norm.kind == "stretch":
        low = norm.mean - 2 * norm.std
        return {"input.mean": low, "input.std": 4 * norm.std, "input.clip": torch.tensor(1)}
    return {"input.mean": norm.mean, "input.std": norm.std}
