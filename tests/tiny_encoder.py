"""A frozen encoder small enough for tests: random weights in timm's layout."""

from __future__ import annotations

import safetensors.torch
import torch


def tiny_vit(patch: int = 16, width: int = 24, size: int = 32) -> bytes:
    """Return a small random encoder as safetensors bytes in timm's layout."""
    torch.manual_seed(0)
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + (size // patch) ** 2, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for i in range(2):
        for name, shape in {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,),
        }.items():
            shapes[f"blocks.{i}.{name}"] = shape
    tensors = {name: 0.2 * torch.randn(shape) for name, shape in shapes.items()}
    tensors["input.heads"] = torch.tensor(4)
    return safetensors.torch.save(tensors)
