"""Weights as they come in files: safetensors, or what `torch.save` writes."""

from __future__ import annotations

import argparse
import io
import pickle

import safetensors.torch
import torch

_WRAPPERS = ("model", "module", "state_dict")
"Where checkpoints keep the weights among other things."
_BROKEN = (
    safetensors.SafetensorError,
    pickle.UnpicklingError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
)


def read_weights(data: bytes) -> dict[str, torch.Tensor]:
    """Return the named tensors of a weight file's bytes; nothing in it is executed.

    Of a checkpoint of training those of its model; the prefix of data-parallel names is dropped.

    Raises:
        ValueError: it is neither kind of file, or holds no tensors.
    """
    try:
        held = _load(data)
    except _BROKEN as error:
        raise ValueError(
            "is damaged, or holds more than weights, which is not run "
            f"({str(error).partition(chr(10))[0][:120]}). Give a .safetensors or .pth file."
        ) from error
    for name in _WRAPPERS:
        if isinstance(held, dict) and isinstance(held.get(name), dict):
            held = held[name]
    named = held.items() if isinstance(held, dict) else ()
    tensors = {
        str(name).removeprefix("module."): value
        for name, value in named
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise ValueError("holds no weights by name. Give a file of a state dictionary.")
    return tensors


def _load(data: bytes) -> object:
    """Return what a file holds: `torch.save` writes a zip, its older form a pickle."""
    if data[:2] != b"PK" and (data[8:9] == b"{" or data[:1] != b"\x80"):
        return safetensors.torch.load(data)
    # Official files keep the words of their command line beside the weights.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
