"""Microscopy MAE: all channels in one patch, parallel-scaling blocks with q and k norms.

Source: Kraus et al. 2024, arXiv:2404.10242. Parameter names are those of the released checkpoints
(timm 0.9.7 blocks), with global average pooling: the latent is not normalised, the pooled feature
is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.blocks import (
    frozen,
    init_linears,
    layer_norm,
    run_blocks,
    run_decoder,
    split_heads,
    stack_blocks,
    token,
)
from training.models.config import ModelConfig, ModelInput
from training.models.layout import PixelLayout
from training.models.mae import make_heads, predict
from training.models.positions import sincos_microscopy
from training.models.tokens import PatchEmbed, place_tokens, take_tokens


class LayerScale(nn.Module):
    """A learned gain a channel."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(start * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, D)."""
        return x * self.gamma


class ParallelBlock(nn.Module):
    """Attention and MLP side by side from one input projection.

    The released code puts `[zeros(3D), mlp_bias(4D)]` on an output that it splits as (mlp 4D, q, k,
    v): the first 3D units of the MLP have no bias, the biases of q, k and v are the last 3D entries
    of mlp_bias. Weights fit only that.
    """

    def __init__(self, width: int, heads: int, scale: float) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.in_norm = layer_norm(width)
        self.in_proj = nn.Linear(width, 7 * width, bias=False)
        self.mlp_bias = nn.Parameter(torch.zeros(4 * width))
        self.q_norm = layer_norm(width // heads)
        self.k_norm = layer_norm(width // heads)
        self.attn_out_proj = nn.Linear(width, width)
        self.mlp_out_proj = nn.Linear(4 * width, width)
        self.ls = LayerScale(width, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, D)."""
        bias = torch.cat([self.mlp_bias.new_zeros(3 * self.width), self.mlp_bias])
        z = functional.linear(self.in_norm(x), self.in_proj.weight, bias)
        hidden, *qkv = z.split([4 * self.width] + [self.width] * 3, dim=-1)
        q, k, v = (split_heads(part, self.heads) for part in qkv)
        seen = functional.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        seen = self.attn_out_proj(seen.transpose(1, 2).flatten(2))
        return x + self.ls(seen + self.mlp_out_proj(functional.gelu(hidden)))


class Backbone(nn.Module):
    """The ViT that is kept after pretraining; `repeats` channels may share one single-channel
    embedding.
    """

    def __init__(self, config: ModelConfig, edge: int, channels: int, repeats: int = 1) -> None:
        super().__init__()
        width = config.width
        self.patch_embed = PatchEmbed(channels, width, config.patch)
        self.cls_token = token(width)
        table = sincos_microscopy(width, edge, edge, repeats=repeats, cls=True)
        self.pos_embed = frozen(table)
        self.blocks = nn.ModuleList(
            ParallelBlock(width, config.heads, config.layer_scale) for _ in range(config.depth)
        )
        self.fc_norm = layer_norm(width)

    def forward(self, pixels: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return (B, 1+K, D): the class token, then the visible patch tokens (None: all) of
        (B, C, H, W), or channel by channel of (B, 1, C, H, W).
        """
        places = self.pos_embed[:, 1:]
        x = self.patch_embed(pixels, visible)
        x = x + (places if visible is None else take_tokens(places, visible))
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        return run_blocks(self.blocks, torch.cat([first, x], dim=1))


class Encoder(nn.Module):
    """Holds the backbone under its released name."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.vit_backbone = backbone


class JointDecoder(nn.Module):
    """Standard blocks over all positions and the class token."""

    def __init__(self, config: ModelConfig, edge: int) -> None:
        super().__init__()
        width = config.decoder_width
        self.mask_token = token(width)
        self.pos_embeddings = frozen(sincos_microscopy(width, edge, edge, cls=True))
        self.blocks = stack_blocks(width, config.decoder_depth, config.decoder_heads)
        self.norm = layer_norm(width)

    def forward(self, x: Tensor, visible: Tensor, decoded: Tensor) -> Tensor:
        """Return (B, Q, d) for the positions `decoded` (B, Q) from x (B, 1+K, d)."""
        length = self.pos_embeddings.shape[1] - 1
        full = place_tokens(x[:, 1:], visible, self.mask_token, length)
        x = torch.cat([x[:, :1], full], dim=1) + self.pos_embeddings
        return self.norm(run_decoder(self.blocks, x, decoded + 1))


class MicroMAE(nn.Module):
    """Masked autoencoder on multi-channel fields."""

    def __init__(self, config: ModelConfig, data: ModelInput) -> None:
        super().__init__()
        edge = data.size // config.patch
        self.layout = self.layout_of(config, data)
        self.encoder = Encoder(Backbone(config, edge, data.channels))
        self.decoder = JointDecoder(config, edge)
        self.encoder_decoder_proj = nn.Linear(config.width, config.decoder_width)
        self.decoder_pred, self.heads = make_heads(config.decoder_width, data.widths)
        init_linears(self)

    @staticmethod
    def layout_of(config: ModelConfig, data: ModelInput) -> PixelLayout:
        """Return the order of pixel values: row, column, channel."""
        return PixelLayout(patch=config.patch)

    def forward(self, pixels: Tensor, visible: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Return the predictions (B, Q, P) of each target for the tokens `decoded` (B, Q)."""
        latent = self.encoder_decoder_proj(self.encode(pixels, visible))
        return predict(self.decoder(latent, visible, decoded), self.decoder_pred, self.heads)

    def encode(self, pixels: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return (B, 1+K, D), not normalised."""
        return self.encoder.vit_backbone(pixels, visible)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the patch tokens (B, N, D); their mean goes through `fc_norm` in the released
        models.
        """
        return self.encode(pixels)[:, 1:]

    def embed(self, pixels: Tensor) -> Tensor:
        """Return the feature (B, D) of whole samples as the released models have it."""
        return self.encoder.vit_backbone.fc_norm(self.features(pixels).mean(1))
