"""SatMAE over time: pictures of one place on several dates, each token told where and when it is.

Source: Cong et al. 2022, arXiv:2207.08051 (temporal variant). Token order is picture-major.
Parameter names are those of the official checkpoints.
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


class SatMAETime(nn.Module):
    """Masked autoencoder on dated pictures that share one embedding.

    `context` values of the encoder's width (`decoder_context` of the decoder's) say when a token
    was seen, the rest where.
    """

    def __init__(self, config: ModelConfig, data: ModelInput) -> None:
        super().__init__()
        width, inner = config.width, config.decoder_width
        self.dated = config.context or width * 3 // 8
        self.decoder_dated = config.decoder_context or inner * 3 // 8
        _check(config, data, self.dated, self.decoder_dated)
        edge = data.size // config.patch
        self.layout = self.layout_of(config, data)
        self.patch_embed = PatchEmbed(data.channels, width, config.patch)
        self.cls_token = token(width)
        self.pos_embed = frozen(sincos_2d(width - self.dated, edge, edge, cls=True))
        self.blocks = encoder_blocks(config)
        self.norm = layer_norm(width)
        self.decoder_embed = nn.Linear(width, inner)
        self.mask_token = token(inner)
        self.decoder_pos_embed = frozen(sincos_2d(inner - self.decoder_dated, edge, edge, cls=True))
        self.decoder_blocks = stack_blocks(inner, config.decoder_depth, config.decoder_heads)
        self.decoder_norm = layer_norm(inner)
        self.decoder_pred = nn.Linear(inner, data.widths["pixels"])
        init_linears(self)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))

    @staticmethod
    def layout_of(config: ModelConfig, data: ModelInput) -> PixelLayout:
        """Return the order of pixel values: row, column, channel of one picture."""
        return PixelLayout(patch=config.patch)

    def forward(
        self, pixels: Tensor, visible: Tensor, decoded: Tensor, dates: Tensor
    ) -> dict[str, Tensor]:
        """Return the predictions (B, Q, P) for the picture-major tokens `decoded` (B, Q).

        Args:
            pixels: (B, C, T, H, W), normalised.
            visible: (B, K) numbers of the tokens that the encoder sees, below T * h * w.
            dates: (B, T, 3) year - 2002, month - 1 and hour of each picture.
        """
        x = self.decoder_embed(self.encode(pixels, dates, visible))
        places = _places(self.decoder_pos_embed[:, 1:], dates, self.decoder_dated)
        full = place_tokens(x[:, 1:], visible, self.mask_token, places.shape[1]) + places
        x = run_decoder(self.decoder_blocks, torch.cat([x[:, :1], full], dim=1), decoded + 1)
        return {"pixels": self.decoder_pred(self.decoder_norm(x))}

    def encode(self, pixels: Tensor, dates: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return (B, 1+K, D): the class token, which has no position, then the visible tokens."""
        places = _places(self.pos_embed[:, 1:], dates, self.dated)
        # To the embedding, pictures are a clip of tubelets of one frame.
        x = self.patch_embed(pixels, visible)
        x = x + (places if visible is None else take_tokens(places, visible))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.norm(run_blocks(self.blocks, x))

    def features(self, pixels: Tensor, dates: Tensor) -> Tensor:
        """Return the tokens (B, N, D) of whole samples."""
        return self.encode(pixels, dates)[:, 1:]


def embed_dates(dates: Tensor, width: int) -> Tensor:
    """Return SatMAE's time table (B, T, width) float32: of each date a third each for year - 2002,
    month - 1 and hour; of each third half sines, then half cosines.

    Args:
        dates: (B, T, 3) year - 2002, month - 1, hour.
        width: values a date: 384 in the released encoder, 192 in its decoder.
    """
    half = width // 6
    rates = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=dates.device) / half)
    angles = dates.double()[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(2).float()


def _places(positions: Tensor, dates: Tensor, dated: int) -> Tensor:
    """Return (B, T*L, D) of positions (1, L, D - dated) and dates (B, T, 3)."""
    when = embed_dates(dates, dated).unsqueeze(2).expand(-1, -1, positions.shape[1], -1)
    where = positions.unsqueeze(1).expand(*when.shape[:2], -1, -1)
    return torch.cat([where, when], dim=-1).flatten(1, 2)


def _check(config: ModelConfig, data: ModelInput, dated: int, decoder_dated: int) -> None:
    if list(data.widths) != ["pixels"]:
        raise ValueError(
            f"target is {list(data.widths)}; satmae_time predicts pixels only. Use target: "
            "[{kind: pixels}]."
        )
    shares = (dated, config.width - dated), (decoder_dated, config.decoder_width - decoder_dated)
    if any(when % 6 or where % 4 for when, where in shares):
        raise ValueError(
            f"model.width is {config.width}, {dated} of it for dates, model.decoder_width is "
            f"{config.decoder_width}, {decoder_dated} of it for dates; dates need multiples of 6, "
            "the rest multiples of 4. 1024, 384 (model.context) and 512 are usual."
        )
