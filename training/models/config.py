"""What a model is made of: the sizes a recipe names, and what the data add to them."""

from __future__ import annotations

from dataclasses import dataclass, field

INPUT_NORMS = ("imagenet", "unit", "self", "stats", "stretch")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The model part of a recipe."""

    family: str
    patch: int
    tubelet: int = 1
    "frames of a token; 1 for anything but video"
    width: int
    depth: int
    heads: int
    mlp_width: int = 0
    "hidden values of the encoder's MLPs; 0 is four times the width (not for micromae, camae)"
    decoder_width: int = 0
    decoder_depth: int = 0
    decoder_heads: int = 0
    groups: tuple[tuple[str, ...], ...] = ()
    "band groups that are tokens of their own, by name (satmae_group); the stream reads them in "
    "this order"
    norm_input: str = "imagenet"
    "imagenet: fixed mean and std; unit: /255; self: per image and channel; stats, stretch: of "
    "the dataset"
    layer_scale: float = 1e-4
    "first value of the residual gains (micromae, camae)"
    context: int = 0
    "of a token's position, the values that name its band group or date (satmae): 256 and 384 in "
    "the released models; 0 takes a third and three eighths of the width"
    decoder_context: int = 0
    "the same of the decoder: 128 and 192; 0 takes a quarter and three eighths"

    def __post_init__(self) -> None:
        for name in ("patch", "tubelet", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} is {getattr(self, name)}; it must be 1 or more.")
        _check_heads("model.width", self.width, "model.heads", self.heads)
        if self.decoder_width:
            _check_heads(
                "model.decoder_width", self.decoder_width, "model.decoder_heads", self.decoder_heads
            )
        if self.norm_input not in INPUT_NORMS:
            raise ValueError(
                f"model.norm_input is {self.norm_input!r}; it must be one of "
                f"{', '.join(INPUT_NORMS)}."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInput:
    """What the data decide: the shape of a sample and how wide each target is."""

    channels: int
    size: int
    "edge of the view, pixels"
    frames: int = 1
    groups: tuple[tuple[int, ...], ...] = ()
    "channel numbers of each band group"
    widths: dict[str, int] = field(default_factory=dict)
    "values a token of each target, in the order of the recipe; the family itself knows how many "
    "pixels are"


def _check_heads(width_name: str, width: int, heads_name: str, heads: int) -> None:
    if heads < 1 or width % heads:
        raise ValueError(
            f"{width_name} is {width}, {heads_name} is {heads}; heads must divide the width. "
            f"A head of 64 values is usual: try {heads_name}={max(width // 64, 1)}."
        )
