"""Lion: steps of the sign of a running gradient.

Source: Chen et al. 2023, arXiv:2302.06675; microscopy's optimiser (Kraus et al. 2024).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """Each value moves by the rate, up or down; weight decay is decoupled."""

    def __init__(
        self, parameters: Any, lr: float, betas: tuple[float, float] = (0.9, 0.95)
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take one step."""
        assert closure is None, "Lion takes no closure"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (now, later) = self.state[parameter], group["betas"]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"]
        direction = momentum.lerp(gradient, 1 - now).sign_()
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction, alpha=-group["lr"])
        momentum.lerp_(gradient, 1 - later)
