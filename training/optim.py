"""The optimiser and its parameter groups, as the papers have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.lion import Lion
from training.optim_config import OptimConfig

NO_DECAY_TOKENS = ("pos_embed", "cls_token", "mask_token")


def split_decay(model: nn.Module, *, decay_tokens: bool = True) -> tuple[list[str], list[str]]:
    """Return the names of the learned parameters with and without weight decay.

    Every 1-D parameter and every bias is without; frozen tables are in neither list.
    """
    decay, plain = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = parameter.ndim <= 1 or name.endswith(".bias")
        exempt |= not decay_tokens and any(word in name for word in NO_DECAY_TOKENS)
        (plain if exempt else decay).append(name)
    return decay, plain


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return a fused AdamW, or Lion, over two parameter groups: with and without weight decay."""
    named = dict(model.named_parameters())
    decay, plain = split_decay(model, decay_tokens=config.decay_tokens)
    groups: list[dict[str, Any]] = [
        {"params": [named[name] for name in decay], "weight_decay": config.weight_decay},
        {"params": [named[name] for name in plain], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.kind == "lion":
        return Lion(groups, lr=config.lr, betas=config.betas)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups, times a group's own `lr_scale` if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rates for the linear probe of MAE: trust ratio on matrices only, no
    Nesterov.
    """

    def __init__(
        self,
        parameters: Any,
        lr: float,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take one step."""
        assert closure is None, "LARS takes no closure"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if parameter.ndim > 1:
            gradient = gradient + group["weight_decay"] * parameter
            sizes = parameter.norm(), gradient.norm()
            ratio = group["trust"] * sizes[0] / sizes[1] if all(s > 0 for s in sizes) else 1.0
            gradient = gradient * ratio
        state = self.state[parameter]
        moved = state.setdefault("momentum", torch.zeros_like(parameter))
        moved.mul_(group["momentum"]).add_(gradient)
        parameter.sub_(group["lr"] * moved)
