"""CrossMAE: masked tokens ask the visible ones, each decoder block its own mix of encoder maps.

Source: Fu et al. 2024, arXiv:2401.14391. Queries see neither each other nor the position of the
class token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.blocks import (
    CrossAttention,
    Mlp,
    encoder_blocks,
    frozen,
    init_linears,
    layer_norm,
    token,
)
from training.models.config import ModelConfig, ModelInput
from training.models.layout import PixelLayout
from training.models.mae import make_heads, predict
from training.models.positions import sincos_2d
from training.models.tokens import PatchEmbed, take_tokens


class CrossBlock(nn.Module):
    """Cross-attention and MLP, both pre-norm and residual."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm1 = layer_norm(width)
        self.cross_attn = CrossAttention(width, heads, context)
        self.norm2 = layer_norm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Return (B, Q, d) of queries x over context (B, M, D)."""
        x = x + self.cross_attn(self.norm1(x), context)
        return x + self.mlp(self.norm2(x))


class FeatureMix(nn.Module):
    """A weighted sum of feature maps for each decoder block."""

    def __init__(self, maps: int, blocks: int) -> None:
        super().__init__()
        self.linear = nn.Linear(maps, blocks, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return (B, N, D, blocks) of maps (B, N, D, maps)."""
        return self.linear(maps)


class CrossMAE(nn.Module):
    """Masked autoencoder with a decoder of cross-attention only; all feature maps and the input are
    used.
    """

    def __init__(self, config: ModelConfig, data: ModelInput) -> None:
        super().__init__()
        edge = data.size // config.patch
        width, inner = config.width, config.decoder_width
        self.layout = self.layout_of(config, data)
        self.patch_embed = PatchEmbed(data.channels, width, config.patch)
        self.cls_token = token(width)
        self.pos_embed = frozen(sincos_2d(width, edge, edge, cls=True))
        self.blocks = encoder_blocks(config)
        self.wfm = FeatureMix(config.depth + 1, config.decoder_depth)
        self.dec_norms = nn.ModuleList(layer_norm(width) for _ in range(config.decoder_depth))
        self.mask_token = token(inner)
        self.decoder_pos_embed = frozen(sincos_2d(inner, edge, edge, cls=True))
        self.decoder_blocks = nn.ModuleList(
            CrossBlock(inner, config.decoder_heads, width) for _ in range(config.decoder_depth)
        )
        self.decoder_norm = layer_norm(inner)
        self.decoder_pred, self.heads = make_heads(inner, data.widths)
        init_linears(self)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))

    @staticmethod
    def layout_of(config: ModelConfig, data: ModelInput) -> PixelLayout:
        """Return the order of pixel values: row, column, channel."""
        return PixelLayout(patch=config.patch)

    def forward(self, pixels: Tensor, visible: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Return the predictions (B, Q, P) for the tokens `decoded` (B, Q), which may be few of the
        hidden ones.
        """
        mixed = self.wfm(torch.stack(self.maps(pixels, visible), dim=-1))
        x = self.mask_token + take_tokens(self.decoder_pos_embed[:, 1:], decoded)
        for number, (block, norm) in enumerate(
            zip(self.decoder_blocks, self.dec_norms, strict=True)
        ):
            x = block(x, norm(mixed[..., number]))
        return predict(self.decoder_norm(x), self.decoder_pred, self.heads)

    def maps(self, pixels: Tensor, visible: Tensor | None = None) -> list[Tensor]:
        """Return the encoder's input and every block's output, (B, 1+K, D), not normalised."""
        x = self.patch_embed(pixels, visible)
        places = self.pos_embed[:, 1:]
        x = x + (places if visible is None else take_tokens(places, visible))
        maps = [torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps

    def features(self, pixels: Tensor) -> Tensor:
        """Return the patch tokens (B, N, D) of whole samples."""
        return self.maps(pixels)[-1][:, 1:]
