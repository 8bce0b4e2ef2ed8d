"""LocalMIM: an encoder of visible tokens that is asked at four depths, for four sizes of HOG cells.

Source: Wang et al. 2023, arXiv:2303.05251. Parameter names are those of the released code. Lower
blocks answer for finer cells; the coarsest cell spans two by two tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from preprocessing.targets import SCALE_SHARES
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
from training.models.positions import sincos_2d
from training.models.tokens import PatchEmbed, place_tokens, take_tokens

TARGET = "hog_scales"
CELLS = (4, 2, 1, 0.5)
"Cells along the edge of a token, for each decoder."


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ScaleDecoder(nn.Module):
    """Joint decoder blocks, then convolutions to one histogram for each cell."""

    def __init__(self, config: ModelConfig, edge: int, histogram: int, cells: float) -> None:
        super().__init__()
        inner = config.decoder_width
        self.edge = edge
        self.mask_token = token(inner)
        self.pos_embed = frozen(sincos_2d(inner, edge, edge, cls=True))
        self.embed = nn.Linear(config.width, inner)
        self.blocks = stack_blocks(inner, config.decoder_depth, config.decoder_heads)
        self.norm = layer_norm(inner)
        self.pred = nn.Sequential(*_scale_head(inner, histogram, cells))

    def forward(self, latent: Tensor, visible: Tensor) -> Tensor:
        """Return the histograms (B, P, rows, columns) of all cells from (B, 1+K, D)."""
        x = self.embed(latent)
        full = place_tokens(x[:, 1:], visible, self.mask_token, self.edge**2)
        x = run_blocks(self.blocks, torch.cat([x[:, :1], full], dim=1) + self.pos_embed)
        return self.pred(self.norm(x)[:, 1:].transpose(1, 2).unflatten(2, (self.edge, self.edge)))


class LocalMIM(nn.Module):
    """Masked HOG prediction at four depths; no pixel is predicted."""

    def __init__(self, config: ModelConfig, data: ModelInput) -> None:
        super().__init__()
        edge, width = data.size // config.patch, config.width
        _check(config, data, edge)
        self.layout = self.layout_of(config, data)
        self.taps = (1, 3, config.depth - 3, config.depth - 1)
        self.patch_embed = PatchEmbed(data.channels, width, config.patch)
        self.cls_token = token(width)
        self.pos_embed = frozen(sincos_2d(width, edge, edge, cls=True))
        self.blocks = encoder_blocks(config)
        self.norm = nn.ModuleList(layer_norm(width) for _ in self.taps)
        histogram = data.widths[TARGET] // sum(SCALE_SHARES)
        self.decoder = nn.ModuleList(
            ScaleDecoder(config, edge, histogram, cells) for cells in CELLS
        )
        init_linears(self)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))

    @staticmethod
    def layout_of(config: ModelConfig, data: ModelInput) -> PixelLayout:
        """Return the order of pixel values: row, column, channel."""
        return PixelLayout(patch=config.patch)

    def forward(self, pixels: Tensor, visible: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Return {hog_scales: (B, Q, P)}: all scales of the tokens `decoded` (B, Q), finest first.

        Within a scale the order is channel, bin, cell row, cell column.
        """
        maps = self.maps(self.encode(pixels, visible), visible)
        tokens = torch.cat([self.by_token(x) for x in maps], dim=-1)
        return {TARGET: take_tokens(tokens, decoded)}

    def encode(self, pixels: Tensor, visible: Tensor | None = None) -> list[Tensor]:
        """Return (B, 1+K, D) of each tap, normalised."""
        x = self.patch_embed(pixels, visible)
        places = self.pos_embed[:, 1:]
        x = x + (places if visible is None else take_tokens(places, visible))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        reached = []
        for block in self.blocks:
            x = block(x)
            reached.append(x)
        return [norm(reached[tap]) for norm, tap in zip(self.norm, self.taps, strict=True)]

    def maps(self, latents: list[Tensor], visible: Tensor) -> list[Tensor]:
        """Return the histograms (B, P, rows, columns) of each scale."""
        return [decoder(x, visible) for decoder, x in zip(self.decoder, latents, strict=True)]

    def by_token(self, cells: Tensor) -> Tensor:
        """Return what (B, P, rows, columns) cells hold for each token: (B, N, P * cells)."""
        edge = self.decoder[0].edge
        if cells.shape[-1] < edge:
            cells = cells.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
        k = cells.shape[-1] // edge
        split = cells.unflatten(3, (edge, k)).unflatten(2, (edge, k))
        return split.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the patch tokens (B, N, D) of whole samples."""
        return self.encode(pixels)[-1][:, 1:]


def _scale_head(width: int, histogram: int, cells: float) -> list[nn.Module]:
    if cells == 4:
        return [
            nn.ConvTranspose2d(width, width // 2, 2, 2),
            ChannelNorm(width // 2, eps=1e-6),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, 2, 2),
            nn.Conv2d(width // 4, histogram, 1),
        ]
    if cells == 2:
        return [
            nn.ConvTranspose2d(width, width // 2, 2, 2),
            nn.Conv2d(width // 2, histogram, 1),
        ]
    last = nn.Conv2d(width, histogram, 1)
    return [last] if cells == 1 else [nn.AvgPool2d(2), last]


def _check(config: ModelConfig, data: ModelInput, edge: int) -> None:
    if set(data.widths) != {TARGET}:
        raise ValueError(
            f"model.family localmim predicts the target {TARGET} alone; the recipe asks for "
            f"{', '.join(data.widths)}. Set target to [{{kind: {TARGET}}}], or use another family."
        )
    if config.depth < 4 or edge % 2 or config.patch % 4:
        raise ValueError(
            f"model.family localmim: depth is {config.depth}, patch {config.patch}, the view has "
            f"{edge}x{edge} patches. It takes a depth of 4 or more, a patch that 4 divides, and "
            "an even number of patches along an edge."
        )
