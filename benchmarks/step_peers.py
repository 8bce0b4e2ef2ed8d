"""The peers of benchmarks/step.py: transformers' own models, and MAE and VideoMAE written eagerly
as their papers describe them (attention as two products and a softmax, patches embedded by a
convolution over all of them, tokens sorted by noise, the head and the loss over every token).

Each peer takes raw weights from our model, so that losses can be compared.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EagerAttention(nn.Module):
    """Attention written out; the bias of keys can be left away (VideoMAE)."""

    def __init__(self, width: int, heads: int, key_bias: bool) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width, bias=key_bias)
        if not key_bias:
            self.q_bias = nn.Parameter(torch.zeros(width))
            self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        bias = self.qkv.bias
        if bias is None:
            none = torch.zeros_like(self.v_bias, requires_grad=False)
            bias = torch.cat((self.q_bias, none, self.v_bias))
        qkv = nn.functional.linear(x, self.qkv.weight, bias)
        q, k, v = qkv.reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        seen = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1) @ v
        return self.proj(seen.transpose(1, 2).reshape(b, n, c))


class EagerMlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class EagerBlock(nn.Module):
    def __init__(self, width: int, heads: int, key_bias: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = EagerAttention(width, heads, key_bias)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = EagerMlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def blocks(width: int, depth: int, heads: int, key_bias: bool = True) -> nn.ModuleList:
    return nn.ModuleList(EagerBlock(width, heads, key_bias) for _ in range(depth))


class EagerMAE(nn.Module):
    """MAE under the names of its release: `forward(images, noise)` is the loss."""

    def __init__(self, size: int, patch: int, sizes: dict[str, int], keep: float) -> None:
        super().__init__()
        width, inner = sizes["width"], sizes["decoder_width"]
        self.patch, self.keep, tokens = patch, keep, (size // patch) ** 2
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens + 1, width), requires_grad=False)
        self.blocks = blocks(width, sizes["depth"], sizes["heads"])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_embed = nn.Linear(width, inner)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
        table = torch.zeros(1, tokens + 1, inner)
        self.decoder_pos_embed = nn.Parameter(table, requires_grad=False)
        self.decoder_blocks = blocks(inner, sizes["decoder_depth"], sizes["decoder_heads"])
        self.decoder_norm = nn.LayerNorm(inner, eps=1e-6)
        self.decoder_pred = nn.Linear(inner, patch**2 * 3)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        x = self.patch_embed.proj(images).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        b, n, width = x.shape
        kept = int(n * self.keep)
        shuffle = torch.argsort(noise, dim=1)
        restore = torch.argsort(shuffle, dim=1)
        x = torch.gather(x, 1, shuffle[:, :kept].unsqueeze(-1).repeat(1, 1, width))
        mask = torch.ones(b, n)
        mask[:, :kept] = 0
        mask = torch.gather(mask, 1, restore)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(b, -1, -1)
        x = torch.cat((first, x), dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        hidden = self.mask_token.repeat(b, n - kept, 1)
        full = torch.cat((x[:, 1:], hidden), dim=1)
        full = torch.gather(full, 1, restore.unsqueeze(-1).repeat(1, 1, x.shape[2]))
        x = torch.cat((x[:, :1], full), dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        predicted = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        errors = ((predicted - self.targets(images)) ** 2).mean(dim=-1)
        return (errors * mask).sum() / mask.sum()

    def targets(self, images: Tensor) -> Tensor:
        p, h = self.patch, images.shape[2] // self.patch
        x = images.reshape(len(images), 3, h, p, h, p)
        x = torch.einsum("nchpwq->nhwpqc", x).reshape(len(images), h * h, p**2 * 3)
        mean, var = x.mean(dim=-1, keepdim=True), x.var(dim=-1, keepdim=True)
        return (x - mean) / (var + 1.0e-6) ** 0.5


class EagerVideoMAE(nn.Module):
    """VideoMAE under the names of its release: `forward(clips, masked, raw)` is the loss.

    `clips` (B, 3, T, H, W) are normalised; `raw` are the same in [0, 1].
    """

    def __init__(self, size: int, frames: int, patch: int, sizes: dict[str, int]) -> None:
        super().__init__()
        width, inner = sizes["width"], sizes["decoder_width"]
        self.patch, tokens = patch, frames // 2 * (size // patch) ** 2
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.patch_embed = nn.Module()
        kernel = (2, patch, patch)
        self.encoder.patch_embed.proj = nn.Conv3d(3, width, kernel, kernel)
        self.encoder.blocks = blocks(width, sizes["depth"], sizes["heads"], key_bias=False)
        self.encoder.norm = nn.LayerNorm(width, eps=1e-6)
        depth, heads = sizes["decoder_depth"], sizes["decoder_heads"]
        self.decoder.blocks = blocks(inner, depth, heads, key_bias=False)
        self.decoder.norm = nn.LayerNorm(inner, eps=1e-6)
        self.decoder.head = nn.Linear(inner, 2 * patch**2 * 3)
        self.encoder_to_decoder = nn.Linear(width, inner, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
        self.register_buffer("encoder_table", torch.zeros(1, tokens, width), persistent=False)
        self.register_buffer("decoder_table", torch.zeros(1, tokens, inner), persistent=False)

    def forward(self, clips: Tensor, masked: Tensor, raw: Tensor) -> Tensor:
        x = self.encoder.patch_embed.proj(clips).flatten(2).transpose(1, 2)
        x = x + self.encoder_table.type_as(x).clone().detach()
        b, _, width = x.shape
        x = x[~masked].reshape(b, -1, width)
        for block in self.encoder.blocks:
            x = block(x)
        x = self.encoder_to_decoder(self.encoder.norm(x))
        inner = x.shape[2]
        places = self.decoder_table.expand(b, -1, -1).type_as(x).clone().detach()
        seen = places[~masked].reshape(b, -1, inner)
        asked = places[masked].reshape(b, -1, inner)
        x = torch.cat([x + seen, self.mask_token + asked], dim=1)
        for block in self.decoder.blocks:
            x = block(x)
        predicted = self.decoder.head(self.decoder.norm(x[:, -asked.shape[1] :]))
        wanted = self.targets(raw)[masked].reshape(b, -1, predicted.shape[2])
        return nn.functional.mse_loss(predicted, wanted)

    @torch.no_grad()
    def targets(self, raw: Tensor) -> Tensor:
        b, c, frames, size, _ = raw.shape
        p, h = self.patch, size // self.patch
        x = raw.reshape(b, c, frames // 2, 2, h, p, h, p).permute(0, 2, 4, 6, 3, 5, 7, 1)
        x = x.reshape(b, frames // 2 * h * h, 2 * p * p, c)
        scale = x.var(dim=-2, unbiased=True, keepdim=True).sqrt() + 1e-6
        return ((x - x.mean(dim=-2, keepdim=True)) / scale).flatten(2)


def transformers_mae(size: int, patch: int, sizes: dict[str, int], ratio: float) -> nn.Module:
    """Return transformers' ViTMAEForPreTraining of these sizes."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        image_size=size, patch_size=patch, mask_ratio=ratio, norm_pix_loss=True, **_hf(sizes)
    )
    return ViTMAEForPreTraining(config)


def transformers_videomae(size: int, frames: int, patch: int, sizes: dict[str, int]) -> nn.Module:
    """Return transformers' VideoMAEForPreTraining of these sizes."""
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    config = VideoMAEConfig(
        image_size=size,
        patch_size=patch,
        num_frames=frames,
        tubelet_size=2,
        norm_pix_loss=True,
        use_mean_pooling=False,
        **_hf(sizes),
    )
    return VideoMAEForPreTraining(config)


def _hf(sizes: dict[str, int]) -> dict[str, int | float]:
    return {
        "hidden_size": sizes["width"],
        "num_hidden_layers": sizes["depth"],
        "num_attention_heads": sizes["heads"],
        "intermediate_size": 4 * sizes["width"],
        "decoder_hidden_size": sizes["decoder_width"],
        "decoder_num_hidden_layers": sizes["decoder_depth"],
        "decoder_num_attention_heads": sizes["decoder_heads"],
        "decoder_intermediate_size": 4 * sizes["decoder_width"],
        "layer_norm_eps": 1e-6,
    }
