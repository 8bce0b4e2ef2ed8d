"""MaskFeat: all tokens enter the encoder, masked ones as a mask token; a linear head reads them.

Source: Wei et al. 2022, arXiv:2112.09133, the image network; clips use a plain ViT on tubelets
here, where the paper has MViTv2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.blocks import (
    encoder_blocks,
    frozen,
    init_linears,
    layer_norm,
    run_blocks,
    run_decoder,
)
from training.models.config import ModelConfig, ModelInput
from training.models.layout import PixelLayout
from training.models.mae import make_heads, predict
from training.models.positions import sincos_2d, sincos_3d
from training.models.tokens import PatchEmbed, place_tokens


class MaskFeat(nn.Module):
    """Masked feature prediction without a decoder."""

    def __init__(self, config: ModelConfig, data: ModelInput) -> None:
        super().__init__()
        edge, width = data.size // config.patch, config.width
        clip = config.tubelet > 1
        self.layout = self.layout_of(config, data)
        self.patch_embed = PatchEmbed(
            data.channels, width, config.patch, config.tubelet if clip else None
        )
        frames = data.frames // config.tubelet
        table = sincos_3d(width, frames, edge, edge) if clip else sincos_2d(width, edge, edge)
        self.pos_embed = frozen(table)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = encoder_blocks(config)
        self.norm = layer_norm(width)
        self.head, self.heads = make_heads(width, data.widths)
        init_linears(self)
        for head in (self.head, *self.heads.values()):
            nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    @staticmethod
    def layout_of(config: ModelConfig, data: ModelInput) -> PixelLayout:
        """Return the order of pixel values: frame, row, column, channel."""
        return PixelLayout(patch=config.patch, tubelet=config.tubelet)

    def forward(self, pixels: Tensor, visible: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Return the predictions (B, Q, P) of each target for the tokens `decoded` (B, Q).

        Args:
            pixels: (B, C, H, W) or (B, C, T, H, W), normalised.
            visible: (B, K) numbers of the tokens that are not masked.
        """
        x = self.patch_embed(pixels, visible)
        x = place_tokens(x, visible, self.mask_token, self.pos_embed.shape[1]) + self.pos_embed
        x = self.norm(run_decoder(self.blocks, x, decoded))
        return predict(x, self.head, self.heads)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the tokens (B, N, D) of whole samples."""
        return self.norm(run_blocks(self.blocks, self.patch_embed(pixels) + self.pos_embed))
