"""What a log line sums up: the steps since the line before it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from training.guard import Guard
from training.ranks import mean_over_ranks

Figures = dict[str, Tensor]
"loss, grad_norm and the parts of the loss of one step, not yet read from the device"


@dataclass(slots=True)
class Window:
    """Figures of the steps since the last log line. What is saved of it makes the lines of a
    resumed run equal those of one that never stopped; times are those of this process.
    """

    pending: list[tuple[int, Figures]] = field(default_factory=list)
    "steps whose figures were not looked at yet"
    figures: list[dict[str, float]] = field(default_factory=list)
    samples: int = 0
    waited: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def add(self, step: int, figures: Figures, samples: int) -> None:
        """Take the figures of a step, and how many samples this rank computed in it."""
        self.pending.append((step, figures))
        self.samples += samples

    def settle(self, guard: Guard, scaled: bool) -> None:
        """Read the pending figures, as means over all ranks, and have them judged.

        Raises:
            BadStep: one of them is bad; all ranks raise it together.
        """
        if not self.pending:
            return
        rows = [torch.stack([v.float() for v in figures.values()]) for _, figures in self.pending]
        table = mean_over_ranks(torch.stack(rows)).tolist()
        for (step, figures), row in zip(self.pending, table, strict=True):
            read = dict(zip(figures, row, strict=True))
            guard.judge(step, read["loss"], read["grad_norm"], scaled)
            self.figures.append(read)
        self.pending.clear()

    def line(self, done: int, rate: float) -> dict[str, Any]:
        """Return the line after `done` steps, and begin the next one: means over the steps, the
        gradient norm of the last.
        """
        seconds = max(time.monotonic() - self.began, 1e-9)
        line: dict[str, Any] = {"step": done}
        if self.figures:
            parts = list(self.figures[-1])
            line |= {n: sum(f[n] for f in self.figures) / len(self.figures) for n in parts}
            line |= {"lr": rate, "grad_norm": self.figures[-1]["grad_norm"]}
        line |= {
            "samples_per_second": self.samples / seconds,
            "data_wait_share": self.waited / seconds,
            "seconds": seconds,
            "samples": self.samples,
        }
        self.figures, self.samples, self.waited, self.began = [], 0, 0.0, time.monotonic()
        return line

    def saved(self) -> list[dict[str, float]]:
        """Return what a checkpoint keeps of it."""
        assert not self.pending, "a checkpoint is written of steps that were judged"
        return list(self.figures)
