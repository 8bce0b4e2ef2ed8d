"""Patches to tokens, and picking tokens by number. Token order is raster: time, row, column."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def take_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """Return the tokens (B, K, D) of `tokens` (B, N, D) or (1, N, D) that `ids` (B, K) names."""
    tokens = tokens.expand(ids.shape[0], -1, -1)
    return torch.gather(tokens, 1, ids[..., None].expand(-1, -1, tokens.shape[-1]))


def pick_rows(x: Tensor, rows: Tensor | int) -> Tensor:
    """Return the rows (B, Q, D) of x (B, N, D): those that (B, Q) names, or the last `rows`."""
    return x[:, -rows:] if isinstance(rows, int) else take_tokens(x, rows)


def place_tokens(tokens: Tensor, ids: Tensor, filler: Tensor, length: int) -> Tensor:
    """Return (B, length, D): `tokens` (B, K, D) at the places `ids`, `filler` (1, 1, D) at all
    others.
    """
    base = filler.to(tokens.dtype).expand(tokens.shape[0], length, -1)
    return base.scatter(1, ids[..., None].expand(-1, -1, tokens.shape[-1]), tokens)


def cut_patches(pixels: Tensor, patch: int, tubelet: int = 1) -> Tensor:
    """Return (B, t, h, w, C, u, p, p) of clips (B, C, T, H, W), or with t = 1 of images: an image
    is a clip of one tubelet that stands still.
    """
    if pixels.ndim == 4:
        pixels = pixels.unsqueeze(2).expand(-1, -1, tubelet, -1, -1)
    b, c, frames, height, width = pixels.shape
    if frames % tubelet or height % patch or width % patch:
        raise ValueError(
            f"cut_patches: pixels are {frames}x{height}x{width} (frames, rows, columns), tokens "
            f"{tubelet}x{patch}x"
            f"{patch}. Tokens must tile the sample: change view.size, model.patch or model.tubelet."
        )
    grid = (b, c, frames // tubelet, tubelet, height // patch, patch, width // patch, patch)
    return pixels.reshape(grid).permute(0, 2, 4, 6, 1, 3, 5, 7)


def pick_patches(patches: Tensor, ids: Tensor | None = None) -> Tensor:
    """Return the values (B, K, P) of the patches (B, t, h, w, ...) that `ids` (B, K) names (None:
    all); only those are copied.
    """
    if ids is None:
        return patches.flatten(4).flatten(1, 3)
    height, width = patches.shape[2:4]
    rows = torch.arange(len(ids), device=ids.device)[:, None]
    places = (ids // (height * width), ids // width % height, ids % width)
    return patches[(rows, *places)].flatten(2)


class PatchEmbed(nn.Module):
    """A stride-patch convolution under its official name, computed as one product over the patches
    asked for.
    """

    def __init__(self, channels: int, width: int, patch: int, tubelet: int | None = None) -> None:
        super().__init__()
        self.patch, self.tubelet = patch, tubelet or 1
        if tubelet is None:
            self.proj: nn.Module = nn.Conv2d(channels, width, patch, patch)
        else:
            kernel = (tubelet, patch, patch)
            self.proj = nn.Conv3d(channels, width, kernel, kernel)

    def forward(self, pixels: Tensor, ids: Tensor | None = None) -> Tensor:
        """Return tokens (B, N, D) of pixels (B, C, [T,] H, W), or only those that `ids` (B, K)
        names.
        """
        values = pick_patches(cut_patches(pixels, self.patch, self.tubelet), ids)
        return functional.linear(values, self.proj.weight.flatten(1), self.proj.bias)
