"""Weights from elsewhere into our models: official MAE and VideoMAE checkpoints, Hugging Face's
ViTMAE and VideoMAE, timm's vision transformers, and our own exports.

Official names are ours; others are renamed (`preprocessing.vit_names`). The encoder must be found
whole; a decoder that a file lacks, or that predicts something else, keeps its first weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from preprocessing.vit_names import timm_names
from preprocessing.weight_files import read_weights
from storage.fingerprint import sha256_hex
from training.export import CONFIG, VERSION, WEIGHTS
from training.frozen import Trained, fresh_trainer
from training.ranks import bare
from training.recipe import make_recipe

_FOLDER_FILES = (WEIGHTS, "pytorch_model.bin")
_DECODER = (
    "decoder", "mask_token", "encoder_to_decoder", "wfm.", "dec_norms.", "head.", "heads.",
)  # fmt: skip
"How the names of what is thrown away after pretraining begin."


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """What became of a file's weights."""

    file: str
    "its name, without folders"
    sha256: str
    loaded: int
    fresh: tuple[str, ...]
    "weights of the model that the file did not have"
    unused: tuple[str, ...]
    "weights of the file that the model does not have"

    def record(self) -> dict[str, Any]:
        """Return what a run remembers of it."""
        counts = {"loaded": self.loaded, "fresh": len(self.fresh), "unused": len(self.unused)}
        return {"file": self.file, "sha256": self.sha256, **counts}


def load_weights(model: nn.Module, path: str | Path) -> Loaded:
    """Set a model's weights to those of a file, or of a folder that holds one.

    Args:
        path: .safetensors, .pth, .pt or .bin; or a folder with model.safetensors or
            pytorch_model.bin. Nothing in it is run as code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no weights, or its encoder is not this model's; the message names what
            is missing or of another shape.
    """
    file = _find(Path(path))
    data = file.read_bytes()
    given = _for_model(model, _read(file, data))
    own = model.state_dict()
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    fits = {n for n, v in given.items() if n in own and v.shape == own[n].shape}
    # A frozen table is a function of the grid: that of another view size is not needed.
    lacking = sorted(set(own) - fits - frozen)
    wrong = [name for name in lacking if not name.startswith(_DECODER)]
    if wrong:
        raise ValueError(f"init: {file.name} {_misfit(wrong, given, own)}")
    model.load_state_dict({name: given[name].to(own[name]) for name in fits}, strict=False)
    return Loaded(
        file=file.name,
        sha256=sha256_hex(data),
        loaded=len(fits),
        fresh=tuple(lacking),
        unused=tuple(sorted(set(given) - set(own))),
    )


def load_exported(folder: str | Path) -> Trained:
    """Return the model that `headrace export --to headrace` wrote.

    Raises:
        FileNotFoundError: the folder holds no export.
        ValueError: it is one for another library, or of another version.
    """
    config = json.loads((Path(folder) / CONFIG).read_text())
    if config.get("headrace_export") != VERSION:
        raise ValueError(
            f"{folder}: is no export of layout headrace, version {VERSION}. Those of timm and "
            "Hugging Face are loaded by their libraries; as first weights by init=FOLDER."
        )
    trainer = fresh_trainer(config, torch.device("cpu"))
    model = bare(trainer.model)
    model.load_state_dict(safetensors.torch.load_file(Path(folder) / WEIGHTS))
    return Trained(
        run=config["run"],
        step=config["step"],
        recipe=make_recipe(config["recipe"]),
        about=config["input"],
        model=model.eval(),
        inputs=trainer.inputs,
    )


def _find(path: Path) -> Path:
    if path.is_dir():
        found = [path / name for name in _FOLDER_FILES if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(
                f"init: {path} holds none of {', '.join(_FOLDER_FILES)}. Give a file."
            )
        return found[0]
    if not path.is_file():
        raise FileNotFoundError(f"init: there is no file {path}. Give a .safetensors or .pth file.")
    return path


def _read(file: Path, data: bytes) -> dict[str, Tensor]:
    try:
        return read_weights(data)
    except ValueError as error:
        raise ValueError(f"init: {file.name} {error}") from error


def _for_model(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names of a model of ours."""
    own = set(model.state_dict())
    if len(own & set(weights)) > len(own) // 2:
        return weights
    named = timm_names(weights)
    if "encoder.patch_embed.proj.weight" not in own:
        return named
    named = {n.replace("decoder_blocks.", "decoder.blocks."): v for n, v in named.items()}
    encoder = ("patch_embed.", "blocks.", "norm.")
    return {f"encoder.{n}" if n.startswith(encoder) else n: v for n, v in named.items()}


def _misfit(wrong: list[str], given: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    """Return what is missing or of another shape, for an error."""
    shapes = [
        f"{name} is {tuple(given[name].shape)}, the recipe's model has {tuple(own[name].shape)}"
        for name in wrong
        if name in given
    ]
    missing = [name for name in wrong if name not in given]
    told = shapes[:3] + [f"{name} is missing" for name in missing[:3]]
    rest = f" ({len(wrong)} weights do not fit)" if len(wrong) > len(told) else ""
    return (
        f"holds no encoder of this recipe: {'; '.join(told)}{rest}. Set model.family, width, "
        "depth, patch and view.size to those of the checkpoint."
    )
