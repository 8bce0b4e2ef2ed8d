"""CropMAE: a masked view is rebuilt from another, whole view of the same picture.

Source: Eymaël et al. 2024, arXiv:2403.17823; the decoder is that of Gupta et al. 2023,
arXiv:2305.14344. Parameter names are those of the released code. No recipe uses it yet: the stream
makes one view of a sample.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.config import ModelConfig, ModelInput
from training.models.mae import MAE, predict
from training.models.tokens import place_tokens, take_tokens

HIDDEN = 2048
"Hidden values of the decoder's MLPs, whatever its width."
DROPOUT = 0.1
EPS = 1e-5
"of the decoder blocks' norms: the framework's own, unlike all others here"


class SiameseBlock(nn.Module):
    """Cross-attention to the reference, MLP, self-attention, each with its norm after it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, DROPOUT, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(width, heads, DROPOUT, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, HIDDEN), nn.Linear(HIDDEN, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, eps=EPS) for _ in range(3))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """Return (B, N, d) of tokens x (B, N, d) that look at reference tokens (B, M, d)."""
        crossed = self.multihead_attn(x, reference, reference, need_weights=False)[0]
        x = self.norm2(x + self.dropout(crossed))
        inner = self.dropout(functional.gelu(self.linear1(x)))
        x = self.norm3(x + self.dropout(self.linear2(inner)))
        own = self.self_attn(x, x, x, need_weights=False)[0]
        return self.norm1(x + self.dropout(own))


class CropMAE(MAE):
    """MAE's encoder for both views, a siamese decoder."""

    def __init__(self, config: ModelConfig, data: ModelInput) -> None:
        super().__init__(config, data)
        width, heads = config.decoder_width, config.decoder_heads
        self.decoder_blocks = nn.ModuleList(
            SiameseBlock(width, heads) for _ in range(config.decoder_depth)
        )

    def forward(self, pixels: Tensor, visible: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Return the predictions (B, Q, P) for the tokens `decoded` (B, Q) of the masked view.

        Args:
            pixels: (B, 2, C, H, W): the reference, seen whole, and the masked view.
            visible: (B, K) numbers of the tokens of the masked view that the encoder sees.
        """
        reference = self.decoder_embed(self.encode(pixels[:, 0]))
        x = self.decoder_embed(self.encode(pixels[:, 1], visible))
        full = place_tokens(x[:, 1:], visible, self.mask_token, self.tokens)
        x = torch.cat([x[:, :1], full], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x, reference)
        x = take_tokens(x[:, 1:], decoded)
        return predict(self.decoder_norm(x), self.decoder_pred, self.heads)
