"""VideoMAE: tubelets, no class token, a decoder over visible and asked tokens only; V2's dual
masking included.

Source: Tong et al. 2022, arXiv:2203.12602; Wang et al. 2023, arXiv:2303.16727 (V2: `decoded`
may hold any tokens). Parameter names are those of the official checkpoints; position tables are not
in the state dict.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.blocks import (
    BiasedAttention,
    encoder_blocks,
    init_linears,
    layer_norm,
    run_blocks,
    run_decoder,
    stack_blocks,
)
from training.models.config import ModelConfig, ModelInput
from training.models.layout import PixelLayout
from training.models.mae import make_heads, predict
from training.models.positions import sinusoid
from training.models.tokens import PatchEmbed, take_tokens


class VideoEncoder(nn.Module):
    """Tubelet tokens through blocks with biases for queries and values."""

    def __init__(self, config: ModelConfig, channels: int, tokens: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(channels, config.width, config.patch, config.tubelet)
        self.blocks = encoder_blocks(config, BiasedAttention)
        self.norm = layer_norm(config.width)
        self.register_buffer("places", sinusoid(config.width, tokens)[None], persistent=False)

    def forward(self, pixels: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return (B, K, D) of the visible tokens (None: all) of (B, C, [T,] H, W)."""
        return self.norm(self.tokens(pixels, visible))

    def tokens(self, pixels: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return the same before the last norm."""
        x = self.patch_embed(pixels, visible)
        # An image has the places of a clip's first tubelet.
        first = self.places[:, : x.shape[1]]
        x = x + (first if visible is None else take_tokens(self.places, visible))
        return run_blocks(self.blocks, x)


class VideoDecoder(nn.Module):
    """Blocks over visible tokens followed by queries; only the queries are read."""

    def __init__(self, config: ModelConfig, widths: dict[str, int]) -> None:
        super().__init__()
        width = config.decoder_width
        self.blocks = stack_blocks(
            width, config.decoder_depth, config.decoder_heads, BiasedAttention
        )
        self.norm = layer_norm(width)
        self.head, self.heads = make_heads(width, widths)

    def forward(self, x: Tensor, asked: int) -> dict[str, Tensor]:
        """Return {target: (B, Q, P)} for the last `asked` tokens of x (B, K+Q, d)."""
        x = run_decoder(self.blocks, x, asked)
        return predict(self.norm(x), self.head, self.heads)


class VideoMAE(nn.Module):
    """Masked autoencoder on tubelets."""

    def __init__(self, config: ModelConfig, data: ModelInput) -> None:
        super().__init__()
        edge = data.size // config.patch
        tokens = data.frames // config.tubelet * edge * edge
        inner = config.decoder_width
        self.layout = self.layout_of(config, data)
        self.encoder = VideoEncoder(config, data.channels, tokens)
        self.decoder = VideoDecoder(config, data.widths)
        self.encoder_to_decoder = nn.Linear(config.width, inner, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
        self.register_buffer("places", sinusoid(inner, tokens)[None], persistent=False)
        init_linears(self.encoder)
        init_linears(self.decoder)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    @staticmethod
    def layout_of(config: ModelConfig, data: ModelInput) -> PixelLayout:
        """Return the order of pixel values: frame, row, column, channel."""
        return PixelLayout(patch=config.patch, tubelet=config.tubelet)

    def forward(self, pixels: Tensor, visible: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Return the predictions (B, Q, P) of each target for the tokens `decoded` (B, Q).

        Args:
            pixels: (B, C, T, H, W), normalised.
            visible: (B, K) numbers of the tokens that the encoder sees.
            decoded: (B, Q) numbers of the tokens to predict; a visible one may be among them (V2).
        """
        seen = self.encoder_to_decoder(self.encoder(pixels, visible))
        seen = seen + take_tokens(self.places, visible)
        queries = self.mask_token + take_tokens(self.places, decoded)
        return self.decoder(torch.cat([seen, queries.to(seen.dtype)], dim=1), decoded.shape[1])

    def features(self, pixels: Tensor) -> Tensor:
        """Return the tokens (B, N, D) of whole clips."""
        return self.encoder(pixels)
