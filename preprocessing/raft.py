"""RAFT, where torchvision is installed and its weights are given.

Source: Teed and Deng 2020, RAFT, arXiv:2003.12039; torchvision's models and weight files
(`raft_small_C_T_V2-*.pth`, `raft_large_C_T_SKHT_V2-*.pth`), or the same as safetensors.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from preprocessing.weight_files import read_weights

UPDATES = 6
"Refinements, as MGMAE uses them."
SIZES = ("raft_small", "raft_large")
_STEP = 8
_LEAST = 128
"torchvision's RAFT needs edges of at least this."


@lru_cache(maxsize=1)
def raft_model(size: str, weights: bytes) -> Any:
    """Return the network with its weights, ready to look.

    Raises:
        ValueError: torchvision is missing, or the weights are not this network's.
    """
    try:
        from torchvision.models import optical_flow  # type: ignore[import-not-found,unused-ignore]
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"flow.method={size} needs torchvision ({error}). Install the build that fits torch "
            "('pip install torchvision'), or use flow.method=dis_medium."
        ) from error
    model = getattr(optical_flow, size)(weights=None)
    try:
        model.load_state_dict(read_weights(weights))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"flow.weights: not the weights of torchvision's {size} ({str(error)[:120]}). "
            "Give its .pth file, or the same as safetensors."
        ) from error
    return model.eval()


def raft_pairs(
    sources: NDArray[np.uint8], targets: NDArray[np.uint8], size: str, weights: bytes
) -> NDArray[np.float32]:
    """Return the flow from each source frame to its target: (P, H, W, 3) uint8 -> (P, H, W, 2) px.

    Frames are padded at the right and bottom to multiples of 8, at least 128, by repeating the
    last row and column.
    """
    return network_pairs(raft_model(size, weights), sources, targets)


@torch.no_grad()
def network_pairs(
    model: Any, sources: NDArray[np.uint8], targets: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return what a network called as torchvision's RAFT says of `raft_pairs`."""
    fields = []
    for pair in zip(sources, targets, strict=True):
        images = [torch.from_numpy(np.ascontiguousarray(f)).permute(2, 0, 1)[None] for f in pair]
        height, width = images[0].shape[-2:]
        low, right = (max(-(-n // _STEP) * _STEP, _LEAST) - n for n in (height, width))
        padded = [
            functional.pad(i.float() / 127.5 - 1, (0, right, 0, low), mode="replicate")
            for i in images
        ]
        field = model(*padded, num_flow_updates=UPDATES)[-1]
        fields.append(field[0, :, :height, :width].permute(1, 2, 0).numpy())
    return np.stack(fields).astype(np.float32, copy=False)
