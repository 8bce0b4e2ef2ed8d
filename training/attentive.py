"""The head of the attentive probe: tokens that no mean has blurred, read by one learned query.

Source: Chen et al. 2022 (CAE), arXiv:2202.03026; Bardes et al. 2024 (V-JEPA), arXiv:2404.08471.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.blocks import CrossAttention

HEAD_WIDTH = 32


class AttentiveHead(nn.Module):
    """Tokens (B, N, D) to class scores (B, classes); each dimension is scaled as `measure` found
    it, in place of MAE's batch norm.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        heads = max(h for h in range(1, max(width // HEAD_WIDTH, 1) + 1) if width % h == 0)
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.attend = CrossAttention(width, heads)
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, classes)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        nn.init.trunc_normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    @torch.no_grad()
    def measure(self, tokens: Tensor) -> None:
        """Take mean and spread of each dimension from tokens (n, N, D)."""
        count, total, square = 0, torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        for part in tokens.split(256):
            flat = part.float().flatten(0, 1)
            count += len(flat)
            total += flat.sum(0)
            square += flat.square().sum(0)
        self.mean.copy_(total / count)
        self.std.copy_((square / count - self.mean.square()).clamp_min(1e-6).sqrt())

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, classes)."""
        x = (tokens - self.mean) / self.std
        read = self.attend(self.query.expand(len(x), -1, -1), x)
        return self.linear(self.norm(read[:, 0]))
