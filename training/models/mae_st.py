"""MAE-ST: space-time agnostic masking, learned separable positions that are added after masking.

Source: Feichtenhofer et al. 2022, arXiv:2205.09113. Predicts one frame a tubelet, the last frame of
the clip among them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.blocks import (
    SplitAttention,
    encoder_blocks,
    init_linears,
    layer_norm,
    run_blocks,
    run_decoder,
    stack_blocks,
    token,
)
from training.models.config import ModelConfig, ModelInput
from training.models.layout import PixelLayout
from training.models.mae import make_heads, predict
from training.models.tokens import PatchEmbed, place_tokens, take_tokens


class MAEST(nn.Module):
    """Masked autoencoder on tubelets with a class token."""

    def __init__(self, config: ModelConfig, data: ModelInput) -> None:
        super().__init__()
        space = (data.size // config.patch) ** 2
        time = data.frames // config.tubelet
        width, inner = config.width, config.decoder_width
        self.tokens = time * space
        self.layout = self.layout_of(config, data)
        self.patch_embed = PatchEmbed(data.channels, width, config.patch, config.tubelet)
        self.cls_token, self.decoder_cls_token = token(width), token(inner)
        self.pos_embed_spatial = _places(space, width)
        self.pos_embed_temporal = _places(time, width)
        self.pos_embed_class = _places(1, width)
        self.decoder_pos_embed_spatial = _places(space, inner)
        self.decoder_pos_embed_temporal = _places(time, inner)
        self.decoder_pos_embed_class = _places(1, inner)
        self.blocks = encoder_blocks(config, SplitAttention)
        self.norm = layer_norm(width)
        self.decoder_embed = nn.Linear(width, inner)
        self.mask_token = token(inner)
        self.decoder_blocks = stack_blocks(
            inner, config.decoder_depth, config.decoder_heads, SplitAttention
        )
        self.decoder_norm = layer_norm(inner)
        self.decoder_pred, self.heads = make_heads(inner, data.widths)
        init_linears(self)

    @staticmethod
    def layout_of(config: ModelConfig, data: ModelInput) -> PixelLayout:
        """Return the order of pixel values: row, column, channel of one frame a tubelet."""
        asked = data.frames // config.tubelet
        frames = tuple(i * (data.frames - 1) // max(asked - 1, 1) for i in range(asked))
        return PixelLayout(patch=config.patch, tubelet=config.tubelet, frames=frames)

    def forward(self, pixels: Tensor, visible: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Return the predictions (B, Q, P) of each target for the tokens `decoded` (B, Q)."""
        x = self.decoder_embed(self.encode(pixels, visible))
        full = place_tokens(x, visible, self.mask_token, self.tokens)
        full = full + _joined(self.decoder_pos_embed_spatial, self.decoder_pos_embed_temporal)
        first = (self.decoder_cls_token + self.decoder_pos_embed_class).expand(len(x), -1, -1)
        x = run_decoder(self.decoder_blocks, torch.cat([first, full], dim=1), decoded + 1)
        return predict(self.decoder_norm(x), self.decoder_pred, self.heads)

    def encode(self, pixels: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return (B, K, D) of the visible tokens (None: all) after the last norm, without the class
        token.
        """
        x = self.patch_embed(pixels, visible)
        places = _joined(self.pos_embed_spatial, self.pos_embed_temporal)
        x = x + (places if visible is None else take_tokens(places, visible))
        first = (self.cls_token + self.pos_embed_class).expand(len(x), -1, -1)
        x = run_blocks(self.blocks, torch.cat([first, x], dim=1))
        return self.norm(x)[:, 1:]

    def features(self, pixels: Tensor) -> Tensor:
        """Return the tokens (B, N, D) of whole clips."""
        return self.encode(pixels)


def _places(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, count, width), std=0.02))


def _joined(space: Tensor, time: Tensor) -> Tensor:
    """Return the positions (1, t*L, D) of learned space (1, L, D) and time (1, t, D)."""
    return (time[:, :, None] + space[:, None]).flatten(1, 2)
