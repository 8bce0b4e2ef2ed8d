"""A frozen vision transformer from its weights alone.

Weights are a plain dictionary in timm's layout; those of Hugging Face's ViT, ViTMAE and VideoMAE
are renamed to it. Only the encoder is used: whatever else a checkpoint holds is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from preprocessing.vit_names import Weights, timm_names

EPS = 1e-6
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"Heads by width, where the weights do not tell: ViT-Ti, S, B, L and H."


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenEncoder:
    """An encoder that is only looked through."""

    weights: dict[str, Tensor]
    heads: int
    patch: int
    tubelet: int
    "frames of a token; 0 for an encoder of images"

    @property
    def width(self) -> int:
        """Values of a token."""
        return int(self.weights["patch_embed.proj.weight"].shape[0])

    @property
    def channels(self) -> int:
        """Channels that it takes."""
        return int(self.weights["patch_embed.proj.weight"].shape[1])


def frozen_encoder(weights: Weights, heads: int = 0) -> FrozenEncoder:
    """Return the encoder that a dictionary of weights holds.

    Args:
        weights: timm's names, or Hugging Face's.
        heads: attention heads; 0 takes those that the width is known for.

    Raises:
        ValueError: it holds no such encoder, or the heads are not known.
    """
    named = timm_names(weights)
    kernel = named.get("patch_embed.proj.weight")
    if kernel is None or "blocks.0.norm1.weight" not in named or kernel.ndim not in (4, 5):
        raise ValueError(
            "features: the weights hold no vision transformer: patch_embed.proj.weight or "
            f"blocks.0.norm1.weight is missing among {', '.join(sorted(weights)[:4])} … "
            "Give a safetensors file in timm's or Hugging Face's ViT layout."
        )
    width = int(kernel.shape[0])
    known = heads or HEADS.get(width, 0)
    if not known or width % known:
        raise ValueError(
            f"features: heads of a ViT of width {width} are not known. Set features.heads."
        )
    tubelet = int(kernel.shape[2]) if kernel.ndim == 5 else 0
    return FrozenEncoder(
        weights={name: value.float() for name, value in named.items()},
        heads=known,
        patch=int(kernel.shape[-1]),
        tubelet=tubelet,
    )


@torch.no_grad()
def encode_tokens(encoder: FrozenEncoder, pixels: Tensor) -> Tensor:
    """Return the patch tokens after the last norm: (B, N, D), raster order, class token left out.

    Args:
        pixels: (B, C, H, W), or (B, C, T, H, W) for an encoder of clips; normalised.
    """
    w = encoder.weights
    tubelet = (encoder.tubelet,) if encoder.tubelet else ()
    stride = (*tubelet, encoder.patch, encoder.patch)
    convolve = functional.conv3d if tubelet else functional.conv2d
    grid = convolve(
        pixels.float(), w["patch_embed.proj.weight"], w.get("patch_embed.proj.bias"), stride
    )
    x = _with_places(w, grid.flatten(2).transpose(1, 2), grid.shape[-2:])
    before = x.shape[1] - grid[0, 0].numel()
    for number in range(sum(name.endswith(".norm1.weight") for name in w)):
        if f"blocks.{number}.norm1.weight" not in w:
            break
        x = _block(w, f"blocks.{number}.", x, encoder.heads)
    return (_norm(w, "norm.", x) if "norm.weight" in w else x)[:, before:]


def sinusoid(width: int, tokens: int) -> Tensor:
    """Return VideoMAE's table: sine and cosine interleaved over the flat token number."""
    rates = 1.0 / 10000.0 ** (2 * (np.arange(width) // 2) / width)
    angles = np.arange(tokens, dtype=np.float64)[:, None] * rates
    angles[:, 0::2], angles[:, 1::2] = np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])
    return torch.from_numpy(angles.astype(np.float32))


def _with_places(w: Weights, tokens: Tensor, grid: torch.Size) -> Tensor:
    """Return tokens with their positions, a class token before them if there is one."""
    table = w.get("pos_embed")
    if table is None and w["patch_embed.proj.weight"].ndim == 5:
        # VideoMAE's table is a function of the tokens and lies in no checkpoint.
        table = sinusoid(tokens.shape[2], tokens.shape[1])[None].to(tokens)
    classes = w["cls_token"].shape[1] if "cls_token" in w else 0
    if table is not None:
        if table.shape[1] not in (tokens.shape[1], tokens.shape[1] + classes):
            raise ValueError(
                f"features: the encoder has {table.shape[1] - classes} positions, the view "
                f"{tokens.shape[1]} tokens ({grid[0]}x{grid[1]}). Use the view size that it was "
                "trained with (features.view.size)."
            )
        tokens = tokens + table[:, -tokens.shape[1] :]
    if not classes:
        return tokens
    first = w["cls_token"]
    if table is not None and table.shape[1] > tokens.shape[1]:
        first = first + table[:, :classes]
    return torch.cat([first.expand(len(tokens), -1, -1), tokens], dim=1)


def _norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], w[f"{name}weight"], w[f"{name}bias"], EPS)


def _block(w: Weights, name: str, x: Tensor, heads: int) -> Tensor:
    fused = functional.linear(
        _norm(w, f"{name}norm1.", x), w[f"{name}attn.qkv.weight"], _qkv_bias(w, name)
    )
    shape = (*x.shape[:2], heads, x.shape[2] // heads)
    q, k, v = (part.reshape(shape).transpose(1, 2) for part in fused.chunk(3, dim=-1))
    seen = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    x = x + functional.linear(seen, w[f"{name}attn.proj.weight"], w[f"{name}attn.proj.bias"])
    inner = functional.linear(
        _norm(w, f"{name}norm2.", x), w[f"{name}mlp.fc1.weight"], w[f"{name}mlp.fc1.bias"]
    )
    return x + functional.linear(
        functional.gelu(inner), w[f"{name}mlp.fc2.weight"], w[f"{name}mlp.fc2.bias"]
    )


def _qkv_bias(w: Weights, name: str) -> Tensor | None:
    """Return the bias of the fused projection; VideoMAE learns none for k."""
    if f"{name}attn.q_bias" in w:
        q, v = w[f"{name}attn.q_bias"], w[f"{name}attn.v_bias"]
        return torch.cat([q, torch.zeros_like(q), v])
    return w.get(f"{name}attn.qkv.bias")
