"""VideoMAE's encoder with labels: all tokens seen, their mean read by a linear head.

Source: Wang et al. 2023, arXiv:2303.16727 (VideoMAE V2: pretraining goes on with labels); Tong et
al. 2022, arXiv:2203.12602 (the head). The encoder's last norm comes after the mean, so a pretrained
encoder fits name by name.
"""

from __future__ import annotations

from torch import Tensor, nn

from training.models.blocks import init_linears
from training.models.config import ModelConfig, ModelInput
from training.models.videomae import VideoEncoder, VideoMAE

TARGET = "label"
HEAD_STD = 2e-5
"A head that starts near zero lets the encoder keep what it has."


class LabelledVideo(nn.Module):
    """An encoder of clips or pictures and a classifier."""

    def __init__(self, config: ModelConfig, data: ModelInput) -> None:
        super().__init__()
        if set(data.widths) != {TARGET}:
            raise ValueError(
                f"model.family {config.family} predicts the target {TARGET} alone; the recipe asks "
                f"for {', '.join(data.widths)}. Set target to [{{kind: {TARGET}}}]."
            )
        edge = data.size // config.patch
        tokens = data.frames // config.tubelet * edge * edge
        self.layout = self.layout_of(config, data)
        self.encoder = VideoEncoder(config, data.channels, tokens)
        init_linears(self.encoder)
        self.head = nn.Linear(config.width, data.widths[TARGET])
        nn.init.trunc_normal_(self.head.weight, std=HEAD_STD)
        nn.init.zeros_(self.head.bias)

    layout_of = staticmethod(VideoMAE.layout_of)

    def forward(self, pixels: Tensor, visible: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Return {label: (B, classes)}, before the softmax; nothing is hidden."""
        tokens = self.encoder.tokens(pixels)
        return {TARGET: self.head(self.encoder.norm(tokens.mean(1)))}

    def features(self, pixels: Tensor) -> Tensor:
        """Return the tokens (B, N, D) of whole clips."""
        return self.encoder(pixels)
