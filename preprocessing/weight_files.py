"""Weights as they come in files: safetensors, or what `torch.save` writes."""

from __future__ import annotations

import io
import pickle

import safetensors.torch
import torch

_INSIDE = ("model", "state_dict")
"Where checkpoints keep the weights among other things."


def read_weights(data: bytes) -> dict[str, torch.Tensor]:
    """Return the named tensors of a weight file's bytes; nothing in it is executed.

    Raises:
        ValueError: it is neither kind of file, or holds no tensors.
    """
    try:
        if data[:2] == b"PK":  # torch.save writes a zip
            held = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        else:
            held = safetensors.torch.load(data)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(
            f"the weights are neither a safetensors nor a .pth file ({str(error)[:120]}). Give the "
            "file that a framework wrote."
        ) from error
    for name in _INSIDE:
        held = held.get(name, held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not all(isinstance(v, torch.Tensor) for v in held.values()):
        raise ValueError(
            "the weights file holds other things than named tensors. Give its state dictionary."
        )
    return held
