"""SatMAE on band groups: each group of bands has its own patch embedding, tokens and head.

Source: Cong et al. 2022, arXiv:2207.08051 (group-channel variant). Token order is group-major.
Parameter names are those of the official checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.blocks import (
    encoder_blocks,
    frozen,
    init_linears,
    layer_norm,
    run_blocks,
    stack_blocks,
    token,
)
from training.models.config import ModelConfig, ModelInput
from training.models.layout import PixelLayout
from training.models.positions import sincos_2d, sincos_groups
from training.models.tokens import PatchEmbed, place_tokens, take_tokens


class SatMAE(nn.Module):
    """Masked autoencoder on groups of bands. `context` values of the encoder's width
    (`decoder_context` of the decoder's) say which group a token is of, the rest where it lies."""

    def __init__(self, config: ModelConfig, data: ModelInput) -> None:
        super().__init__()
        _check(config, data)
        edge = data.size // config.patch
        self.groups, self.positions = data.groups, edge * edge
        self.layout = self.layout_of(config, data)
        self._make_encoder(config, edge)
        self._make_decoder(config, edge)
        init_linears(self)
        for embed in self.patch_embed:
            nn.init.xavier_uniform_(embed.proj.weight.data.flatten(1))

    def _make_encoder(self, config: ModelConfig, edge: int) -> None:
        width, named = config.width, config.context or config.width // 3
        self.patch_embed = nn.ModuleList(
            PatchEmbed(len(group), width, config.patch) for group in self.groups
        )
        self.cls_token = token(width)
        self.pos_embed = frozen(sincos_2d(width - named, edge, edge, cls=True))
        self.channel_embed = frozen(sincos_groups(named, len(self.groups)))
        self.blocks = encoder_blocks(config)
        self.norm = layer_norm(width)

    def _make_decoder(self, config: ModelConfig, edge: int) -> None:
        width, named = config.decoder_width, config.decoder_context or config.decoder_width // 4
        self.decoder_embed = nn.Linear(config.width, width)
        self.mask_token = token(width)
        self.decoder_pos_embed = frozen(sincos_2d(width - named, edge, edge, cls=True))
        self.decoder_channel_embed = frozen(sincos_groups(named, len(self.groups) + 1))
        self.decoder_blocks = stack_blocks(width, config.decoder_depth, config.decoder_heads)
        self.decoder_norm = layer_norm(width)
        self.decoder_pred = nn.ModuleList(
            nn.Linear(width, len(group) * config.patch**2) for group in self.groups
        )

    @staticmethod
    def layout_of(config: ModelConfig, data: ModelInput) -> PixelLayout:
        """Return the order of pixel values: channel of the group, row, column."""
        return PixelLayout(
            patch=config.patch, channels_last=False, groups=data.groups, joint_norm=True
        )

    def forward(self, pixels: Tensor, visible: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Return the predictions (B, Q, P) for the group-major tokens `decoded` (B, Q).

        Args:
            pixels: (B, C, H, W), normalised.
            visible: (B, K) numbers of the tokens that the encoder sees, below groups * positions.
        """
        return self.decode(self.encode(pixels, visible), visible, decoded)

    def encode(self, pixels: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return (B, 1+K, D): the class token, which has no position, then the visible tokens."""
        parts = [
            embed(pixels[:, list(group)])
            for embed, group in zip(self.patch_embed, self.groups, strict=True)
        ]
        x = torch.cat(parts, dim=1) + self._places(self.pos_embed[:, 1:], self.channel_embed)
        if visible is not None:
            x = take_tokens(x, visible)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.norm(run_blocks(self.blocks, x))

    def decode(self, latent: Tensor, visible: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Return the predictions from the encoder's output (B, 1+K, D), padded to the largest
        group.
        """
        x = self.decoder_embed(latent)
        groups = len(self.groups)
        full = place_tokens(x[:, 1:], visible, self.mask_token, groups * self.positions)
        names = self.decoder_channel_embed
        full = full + self._places(self.decoder_pos_embed[:, 1:], names[:, :groups])
        first = torch.cat([self.decoder_pos_embed[:, :1], names[:, groups:]], dim=-1)
        x = torch.cat([x[:, :1] + first, full], dim=1)
        x = self.decoder_norm(run_blocks(self.decoder_blocks, x))[:, 1:]
        widest = self.layout.width(0)
        parts = [
            functional.pad(head(part), (0, widest - head.out_features))
            for head, part in zip(self.decoder_pred, x.chunk(groups, dim=1), strict=True)
        ]
        return {"pixels": take_tokens(torch.cat(parts, dim=1), decoded)}

    def _places(self, positions: Tensor, names: Tensor) -> Tensor:
        """Return (1, G*L, D) of positions (1, L, D-E) and group names (1, G, E)."""
        groups, length = names.shape[1], positions.shape[1]
        where = positions[:, None].expand(-1, groups, -1, -1)
        which = names[:, :, None].expand(-1, -1, length, -1)
        return torch.cat([where, which], dim=-1).flatten(1, 2)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the tokens (B, N, D) of whole samples."""
        return self.encode(pixels)[:, 1:]


def _check(config: ModelConfig, data: ModelInput) -> None:
    if not data.groups:
        raise ValueError(
            "model.groups is empty; satmae_group needs groups of bands. "
            "Set for example model.groups=[[B02, B03, B04, B08], [B05, B06, B07, B8A], [B11, B12]]."
        )
    if list(data.widths) != ["pixels"]:
        raise ValueError(
            f"target is {list(data.widths)}; satmae_group predicts the pixels of each group only. "
            "Use target: [{kind: pixels}]."
        )
    named = config.context or config.width // 3
    inner = config.decoder_context or config.decoder_width // 4
    shares = (named, config.width - named), (inner, config.decoder_width - inner)
    if any(group % 2 or place % 4 for group, place in shares):
        raise ValueError(
            f"model.width is {config.width}, {named} of it for groups, model.decoder_width is "
            f"{config.decoder_width}, {inner} of it for groups; groups need even numbers, the rest "
            "multiples of 4. 768, 256 (model.context) and 512 are usual."
        )
