"""Image MAE: visible tokens through the encoder, all positions through a light joint decoder.

Source: He et al. 2022, arXiv:2111.06377. Parameter names are those of the official checkpoints.
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
    stack_blocks,
    token,
)
from training.models.config import ModelConfig, ModelInput
from training.models.layout import PixelLayout
from training.models.positions import sincos_2d
from training.models.tokens import PatchEmbed, place_tokens, take_tokens


class MAE(nn.Module):
    """Masked autoencoder on 2-D patches."""

    def __init__(self, config: ModelConfig, data: ModelInput) -> None:
        super().__init__()
        edge = data.size // config.patch
        self.tokens = edge * edge
        self.layout = self.layout_of(config, data)
        width, inner = config.width, config.decoder_width
        self.patch_embed = PatchEmbed(data.channels, width, config.patch)
        self.cls_token = token(width)
        self.pos_embed = frozen(sincos_2d(width, edge, edge, cls=True))
        self.blocks = encoder_blocks(config)
        self.norm = layer_norm(width)
        self.decoder_embed = nn.Linear(width, inner)
        self.mask_token = token(inner)
        self.decoder_pos_embed = frozen(sincos_2d(inner, edge, edge, cls=True))
        self.decoder_blocks = stack_blocks(inner, config.decoder_depth, config.decoder_heads)
        self.decoder_norm = layer_norm(inner)
        self.decoder_pred, self.heads = make_heads(inner, data.widths)
        init_linears(self)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))

    @staticmethod
    def layout_of(config: ModelConfig, data: ModelInput) -> PixelLayout:
        """Return the order of pixel values: row, column, channel."""
        return PixelLayout(patch=config.patch)

    def forward(self, pixels: Tensor, visible: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Return the predictions (B, Q, P) of each target for the tokens `decoded` (B, Q).

        Args:
            pixels: (B, C, H, W), normalised.
            visible: (B, K) numbers of the tokens that the encoder sees.
            decoded: (B, Q) numbers of the tokens to predict.
        """
        return self.decode(self.encode(pixels, visible), visible, decoded)

    def encode(self, pixels: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return (B, 1+K, D): the class token, then the visible tokens (None: all), after the last
        norm.
        """
        x = self.patch_embed(pixels, visible)
        places = self.pos_embed[:, 1:]
        x = x + (places if visible is None else take_tokens(places, visible))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.norm(run_blocks(self.blocks, x))

    def decode(self, latent: Tensor, visible: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Return the predictions from the encoder's output (B, 1+K, D)."""
        x = self.decoder_embed(latent)
        full = place_tokens(x[:, 1:], visible, self.mask_token, self.tokens)
        x = torch.cat([x[:, :1], full], dim=1) + self.decoder_pos_embed
        x = run_decoder(self.decoder_blocks, x, decoded + 1)
        return predict(self.decoder_norm(x), self.decoder_pred, self.heads)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the patch tokens (B, N, D) of whole samples."""
        return self.encode(pixels)[:, 1:]


def make_heads(width: int, widths: dict[str, int]) -> tuple[nn.Linear, nn.ModuleDict]:
    """Return a linear head for the first target, under the paper's name, and one for each further
    target.

    Args:
        width: of the decoder.
        widths: values a token of each target.
    """
    first, *others = widths
    main = nn.Linear(width, widths[first])
    main.target = first
    return main, nn.ModuleDict({name: nn.Linear(width, widths[name]) for name in others})


def predict(x: Tensor, main: nn.Linear, others: nn.ModuleDict) -> dict[str, Tensor]:
    """Return {target: (B, Q, P)} of decoder outputs (B, Q, d)."""
    return {main.target: main(x), **{name: head(x) for name, head in others.items()}}
