"""The guard of a run: which losses end in a rollback. Plain numbers, no torch.

The rule: a step is bad whose loss or gradient norm is no finite number, or whose loss is a spike.
The run then goes back to its last checkpoint, repeats the steps up to the bad one, passes over that
one batch (no update; the step keeps its number, so order and rates stay) and goes on. The rule
reads the losses alone, so every rank, every repetition and every resumed run decides alike.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardConfig:
    """The guard part of a recipe."""

    spike: float = 0.0
    "a loss this many times the median of the last good ones is a spike; 0 looks for none"
    window: int = 50
    "good losses that the median is of; before there are as many, nothing is a spike"
    most: int = 5
    "batches that a run may pass over; one more ends it"

    def __post_init__(self) -> None:
        if not (self.spike == 0 or self.spike > 1) or self.window < 1 or self.most < 0:
            raise ValueError(
                f"guard: spike is {self.spike}, window is {self.window}, most is {self.most}; "
                "spike must be 0 or above 1 (3 is usual), window 1 or more, most 0 or more."
            )


class BadStep(RuntimeError):
    """A step after which the run must go back."""

    def __init__(self, step: int, loss: float, norm: float, reason: str) -> None:
        super().__init__(f"step {step + 1}: {reason}")
        self.step, self.loss, self.norm, self.reason = step, loss, norm, reason


class DivergedError(RuntimeError):
    """More batches were bad than the run may pass over."""


@dataclass(slots=True)
class Guard:
    """Judges one step after the other."""

    config: GuardConfig
    good: list[float] = field(default_factory=list)
    "the last good losses, oldest first; a part of the run's state"

    def judge(self, step: int, loss: float, norm: float, scaled: bool = False) -> None:
        """Take note of a step, counted from 0.

        Args:
            scaled: a gradient scaler is at work, which itself passes over infinite gradients.

        Raises:
            BadStep: it is bad.
        """
        reason = self._reason(loss, norm, scaled)
        if reason:
            raise BadStep(step, loss, norm, reason)
        self.good = [*self.good, loss][-self.config.window :]

    def _reason(self, loss: float, norm: float, scaled: bool) -> str:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm) and not scaled:
            return f"the gradient norm is {norm}"
        if self.config.spike and len(self.good) == self.config.window:
            usual = statistics.median(self.good)
            if loss > self.config.spike * usual:
                return f"the loss is {loss:.4g}, {loss / usual:.1f} times the usual {usual:.4g}"
        return ""
