"""Masks that need the model: chosen from its embeddings, in torch."""

from __future__ import annotations

import torch
from torch import Tensor


def everest_masks(
    tokens: Tensor, noise: Tensor, drop: float, ratio: float, times: int = 8
) -> tuple[Tensor, Tensor]:
    """Return which tokens are not input and which are not decoded (EVEREST).

    Args:
        tokens: (B, times * L, D) patch embeddings without positions.
        noise: (B, int((1 - drop) * times * L)) uniform.
        drop: share of all tokens dropped as unchanging.
        ratio: share of all tokens hidden from the encoder.

    Returns:
        Two (B, times * L) bool: False = encoder input; False = decoded.
    """
    b, count, _ = tokens.shape
    frames = tokens.detach().reshape(b, times, count // times, -1)
    change = (frames[:, 1:] - frames[:, :-1]).norm(dim=-1)
    importance = torch.cat([change[:, :1], change], dim=1).reshape(b, count)
    # The first two times tie by construction; parity needs the order that torch's own sort gives.
    moving = torch.argsort(importance, dim=1, descending=True)[:, : int((1 - drop) * count)]
    shuffled = moving.gather(1, noise.argsort(dim=1))
    encoded = int((1 - ratio) * count)
    full = torch.ones(b, count, dtype=torch.bool, device=tokens.device)
    not_input = full.scatter(1, shuffled[:, :encoded], False)
    return not_input, full.scatter(1, shuffled[:, encoded:], False)
