"""Channel-agnostic MAE: a token is one channel's patch; any number of channels shares one
embedding.

Source: Kraus et al. 2024, arXiv:2404.10242. Token order is channel-major.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.blocks import (
    CrossAttention,
    Mlp,
    frozen,
    init_linears,
    layer_norm,
    run_blocks,
    stack_blocks,
    token,
)
from training.models.config import ModelConfig, ModelInput
from training.models.layout import PixelLayout
from training.models.micromae import Backbone, Encoder
from training.models.positions import sincos_microscopy
from training.models.tokens import place_tokens, take_tokens

CROSS_HEADS = 8


class ChannelDecoder(nn.Module):
    """Each channel asks all channels by one shared cross-attention, then has blocks of its own."""

    def __init__(self, config: ModelConfig, edge: int, channels: int) -> None:
        super().__init__()
        width = config.decoder_width
        self.channels = channels
        self.mask_token = token(width)
        self.placeholder = nn.Parameter(torch.zeros(1, 1, width), requires_grad=False)
        self.pos_embeddings = frozen(
            sincos_microscopy(width, edge, edge, repeats=channels, cls=True)
        )
        self.modality_tokens = nn.ParameterList(token(width) for _ in range(channels))
        self.cross_attention = CrossAttention(width, CROSS_HEADS, bias=False)
        self.mlp = Mlp(width)
        self.decoders = nn.ModuleList(
            stack_blocks(width, config.decoder_depth, config.decoder_heads) for _ in range(channels)
        )
        self.context_norm, self.query_norm = layer_norm(width), layer_norm(width)
        self.out_norm = layer_norm(width)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Return (B, C*L, d) for all tokens from x (B, 1+K, d); the class token is dropped."""
        length = self.pos_embeddings.shape[1] - 1
        full = place_tokens(x[:, 1:], visible, self.mask_token, length)
        each = length // self.channels
        names = torch.cat([name.expand(-1, each, -1) for name in self.modality_tokens], dim=1)
        full = full + self.pos_embeddings[:, 1:] + names
        context = self.context_norm(full)
        parts = []
        for blocks, part in zip(self.decoders, full.chunk(self.channels, dim=1), strict=True):
            asked = self.cross_attention(self.query_norm(part), context)
            asked = asked + self.mlp(self.out_norm(asked))
            parts.append(run_blocks(blocks, asked))
        return torch.cat(parts, dim=1)


class ChannelMAE(nn.Module):
    """Masked autoencoder over (channel, position) tokens."""

    def __init__(self, config: ModelConfig, data: ModelInput) -> None:
        super().__init__()
        if list(data.widths) != ["pixels"]:
            raise ValueError(
                f"target is {list(data.widths)}; camae predicts pixels only. Use target: "
                "[{kind: pixels}]."
            )
        edge = data.size // config.patch
        self.layout = self.layout_of(config, data)
        self.encoder = Encoder(Backbone(config, edge, 1, repeats=data.channels))
        self.decoder = ChannelDecoder(config, edge, data.channels)
        self.encoder_decoder_proj = nn.Linear(config.width, config.decoder_width)
        self.decoder_pred = nn.Linear(config.decoder_width, config.patch**2)
        init_linears(self)

    @staticmethod
    def layout_of(config: ModelConfig, data: ModelInput) -> PixelLayout:
        """Return the order of pixel values: one channel's rows and columns; a group a channel."""
        groups = tuple((channel,) for channel in range(data.channels))
        return PixelLayout(patch=config.patch, groups=groups)

    def forward(self, pixels: Tensor, visible: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Return the predictions (B, Q, p*p) for the channel-major tokens `decoded` (B, Q)."""
        x = self.decoder(self.encoder_decoder_proj(self.encode(pixels, visible)), visible)
        return {"pixels": self.decoder_pred(take_tokens(x, decoded))}

    def tokenize(self, pixels: Tensor) -> Tensor:
        """Return the channel-major tokens (B, C*L, D) before positions are added."""
        return self.encoder.vit_backbone.patch_embed(pixels.unsqueeze(1))

    def encode(self, pixels: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return (B, 1+K, D), not normalised."""
        return self.encoder.vit_backbone(pixels.unsqueeze(1), visible)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the tokens (B, C*L, D)."""
        return self.encode(pixels)[:, 1:]

    def embed(self, pixels: Tensor) -> Tensor:
        """Return the feature (B, D) of whole samples as the released models have it."""
        return self.encoder.vit_backbone.fc_norm(self.features(pixels).mean(1))
