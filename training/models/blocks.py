"""Transformer blocks of the papers. LayerNorm eps is 1e-6 everywhere: the framework's 1e-5 breaks
parity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.config import ModelConfig
from training.models.tokens import pick_rows

EPS = 1e-6
AttentionClass = Callable[[int, int], nn.Module]
Rows = Tensor | int | None
"Which rows of (B, N, D) ask: the numbers (B, Q), how many at the end, or None: all."


def layer_norm(width: int) -> nn.LayerNorm:
    """Return the LayerNorm that every model here uses."""
    return nn.LayerNorm(width, eps=EPS)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return (B, heads, N, D/heads) of x (B, N, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Return the attention output (B, N, D) of q (B, N, D) over k and v (B, M, D)."""
    parts = (split_heads(x, heads) for x in (q, k, v))
    return functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


def project(x: Tensor, weight: Tensor, bias: Tensor, rows: Rows) -> tuple[Tensor, ...]:
    """Return the queries (B, Q, D) of the rows that ask, and the keys and values (B, N, D) of all,
    by one fused weight (3D, D).
    """
    if rows is None:
        return functional.linear(x, weight, bias).chunk(3, dim=-1)
    width = x.shape[-1]
    q = functional.linear(pick_rows(x, rows), weight[:width], bias[:width])
    return q, *functional.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)


class Attention(nn.Module):
    """One fused q, k, v projection with bias (MAE)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rows: Rows = None) -> Tensor:
        """Return (B, Q, D) of the rows of x (B, N, D) that ask."""
        q, k, v = project(x, self.qkv.weight, self.qkv.bias, rows)
        return self.proj(attend(q, k, v, self.heads))


class BiasedAttention(nn.Module):
    """VideoMAE: learned biases for q and v, none for k."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rows: Rows = None) -> Tensor:
        """Return (B, Q, D) of the rows of x (B, N, D) that ask."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = project(x, self.qkv.weight, bias, rows)
        return self.proj(attend(q, k, v, self.heads))


class SplitAttention(nn.Module):
    """MAE-ST: three separate projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rows: Rows = None) -> Tensor:
        """Return (B, Q, D) of the rows of x (B, N, D) that ask."""
        asking = x if rows is None else pick_rows(x, rows)
        return self.proj(attend(self.q(asking), self.k(x), self.v(x), self.heads))


class CrossAttention(nn.Module):
    """Queries of one width over keys and values made from a context of another."""

    def __init__(
        self, width: int, heads: int, context: int | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=bias)
        self.kv = nn.Linear(context or width, 2 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Return (B, N, D) of queries x (B, N, D) over context (B, M, E)."""
        k, v = self.kv(context).chunk(2, dim=-1)
        return self.proj(attend(self.q(x), k, v, self.heads))


class Mlp(nn.Module):
    """Two linears with an exact GELU between them."""

    def __init__(self, width: int, hidden: int = 0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden or 4 * width)
        self.fc2 = nn.Linear(hidden or 4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, D)."""
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(
        self, width: int, heads: int, attention: AttentionClass = Attention, hidden: int = 0
    ) -> None:
        super().__init__()
        self.norm1 = layer_norm(width)
        self.attn = attention(width, heads)
        self.norm2 = layer_norm(width)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor, rows: Rows = None) -> Tensor:
        """Return (B, Q, D): the rows of x (B, N, D) that ask; the others are only attended to."""
        seen = self.attn(self.norm1(x), rows)
        x = (x if rows is None else pick_rows(x, rows)) + seen
        return x + self.mlp(self.norm2(x))


def stack_blocks(
    width: int,
    depth: int,
    heads: int,
    attention: AttentionClass = Attention,
    hidden: int = 0,
) -> nn.ModuleList:
    """Return `depth` pre-norm blocks; `hidden` values in their MLPs, 0 is four times the width."""
    return nn.ModuleList(Block(width, heads, attention, hidden) for _ in range(depth))


def encoder_blocks(config: ModelConfig, attention: AttentionClass = Attention) -> nn.ModuleList:
    """Return the encoder's blocks as a recipe names their sizes."""
    return stack_blocks(config.width, config.depth, config.heads, attention, config.mlp_width)


def run_blocks(blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Return x (B, N, D) after all blocks."""
    for block in blocks:
        x = block(x)
    return x


def run_decoder(blocks: nn.ModuleList, x: Tensor, rows: Tensor | int) -> Tensor:
    """Return the rows (B, Q, D) of x (B, N, D) after all blocks: those that (B, Q) names, or the
    last `rows`. The last block computes no others, as nobody reads them.
    """
    *before, last = blocks
    return last(run_blocks(before, x), rows)


def init_linears(model: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every Linear, 1 and 0 for every LayerNorm."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def token(width: int) -> nn.Parameter:
    """Return a learned token (1, 1, D), normal with std 0.02."""
    return nn.Parameter(torch.randn(1, 1, width) * 0.02)


def frozen(table: Tensor) -> nn.Parameter:
    """Return a table (N, D) as a (1, N, D) parameter that is saved but never learned."""
    return nn.Parameter(table[None], requires_grad=False)
