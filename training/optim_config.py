"""The optimiser part of a recipe. Without torch: recipes are read where nothing is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from training.schedules import COOLDOWNS, SCHEDULES

OPTIMIZERS = ("adamw", "lion")


@dataclass(frozen=True, kw_only=True, slots=True)
class InfiniteConfig:
    """The phases of the infinite schedule."""

    ends: tuple[float, float, float] = (0.05, 0.15, 0.80)
    "of warm-up, cooldown and the constant phase: shares of the steps, or steps where above 1"
    held: float = 0.1
    "the constant rate, as a share of the peak"
    cooldown: str = "cosine"
    "cosine, linear or inverse_sqrt"

    def __post_init__(self) -> None:
        if self.cooldown not in COOLDOWNS or not 0 < self.held <= 1 or min(self.ends) < 0:
            raise ValueError(
                f"optim.infinite: cooldown is {self.cooldown!r}, held is {self.held}, ends are "
                f"{self.ends}; cooldown must be one of {', '.join(COOLDOWNS)}, held a share above "
                "0, ends in order, shares or steps."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """The optimiser part of a recipe."""

    lr: float
    "peak learning rate at the recipe's batch"
    kind: str = "adamw"
    "adamw or lion"
    schedule: str = "cosine"
    warmup: float = 0.1
    "share of the steps in which the rate rises from 0"
    min_lr: float = 0.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 0.0
    "largest gradient norm; 0 does not clip"
    decay_tokens: bool = True
    "cls and mask tokens decay in MAE, not in the VideoMAE family"
    layer_decay: float = 1.0
    "factor of the rate from each block of the encoder to the one below it; 1 has one rate"
    infinite: InfiniteConfig = field(default_factory=InfiniteConfig)

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(
                f"optim.lr is {self.lr}; it must be above 0. 1e-3 is usual for tiny models."
            )
        if min(self.min_lr, self.weight_decay, self.clip) < 0:
            raise ValueError(
                f"optim: min_lr is {self.min_lr}, weight_decay is {self.weight_decay}, clip is "
                f"{self.clip}; they must be 0 or more."
            )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(
                f"optim.layer_decay is {self.layer_decay}; it must be above 0 and at most 1."
            )
        if self.kind not in OPTIMIZERS:
            raise ValueError(
                f"optim.kind {self.kind!r} is unknown. Known: {', '.join(OPTIMIZERS)}."
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(
                f"optim.warmup is {self.warmup}; it is a share of the steps, at least 0 and below "
                "1. 0.05 to 0.1 is usual."
            )
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"optim.schedule {self.schedule!r} is unknown. Known: {', '.join(SCHEDULES)}."
            )
