"""A running average of the weights: decay * average + (1 - decay) * weights after every step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The exponential moving average of what a model learns, in float32."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._learned = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.values: dict[str, Tensor] = {
            name: parameter.detach().clone().float() for name, parameter in self._learned.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        new = [parameter.detach().float() for parameter in self._learned.values()]
        torch._foreach_lerp_(list(self.values.values()), new, 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the model hold the average while inside, and its own weights again afterwards."""
        own = [parameter.detach().clone() for parameter in self._learned.values()]
        self._set(list(self.values.values()))
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(list(self._learned.values()), values)

    def load(self, values: dict[str, Tensor]) -> None:
        """Take over the average of a checkpoint."""
        for name, value in self.values.items():
            value.copy_(values[name])
