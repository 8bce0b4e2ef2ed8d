"""The optimiser and its parameter groups, as the papers have them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.lion import Lion
from training.optim_config import OptimConfig
from training.schedules import infinite, schedule_named

NO_DECAY_TOKENS = ("pos_embed", "cls_token", "mask_token")
_ENCODER = r"(?:encoder\.)?(?:vit_backbone\.)?"
ENCODER_BLOCK = re.compile(_ENCODER + r"blocks\.(\d+)\.")
EMBEDDING = re.compile(_ENCODER + r"(?:patch_embed|cls_token|pos_embed|channel_embed)")
"what makes the tokens of the encoder"


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
    """Return a fused AdamW, or Lion, over groups of parameters with and without weight decay; with
    layer decay one such pair for each layer.
    """
    named = dict(model.named_parameters())
    scales = layer_scales(list(named), config.layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    parts = split_decay(model, decay_tokens=config.decay_tokens)
    for names, weight_decay in zip(parts, (config.weight_decay, 0.0), strict=True):
        for name in names:
            groups.setdefault((weight_decay, scales[name]), []).append(named[name])
    made: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": weight_decay, "lr_scale": scale}
        for (weight_decay, scale), parameters in groups.items()
    ]
    if config.kind == "lion":
        return Lion(made, lr=config.lr, betas=config.betas)
    return torch.optim.AdamW(made, lr=config.lr, betas=config.betas, fused=True)


def layer_scales(names: Sequence[str], decay: float) -> dict[str, float]:
    """Return the factor of each parameter's rate: decay ** (blocks + 1 - layer).

    Layer 0 is what makes tokens, layer i + 1 is block i of the encoder, and the last one is all
    that comes after the blocks: norm, decoder, heads (BEiT, Bao et al. 2021, arXiv:2106.08254).
    """
    blocks = {name: int(found[1]) for name in names if (found := ENCODER_BLOCK.match(name))}
    last = max(blocks.values(), default=-1) + 2
    layers = {n: blocks[n] + 1 if n in blocks else 0 if EMBEDDING.match(n) else last for n in names}
    return {name: decay ** (last - layer) for name, layer in layers.items()}


def rate_of(config: OptimConfig, total: int, *, first_task: bool = True) -> Callable[[int], float]:
    """Return the learning rate of each step of a run of `total` steps.

    Args:
        first_task: False where the run goes on with other data: the infinite schedule then has no
            warm-up and no cooldown.
    """
    low, more = config.min_lr, config.infinite
    if config.schedule != "infinite":
        return schedule_named(
            config.schedule, peak=config.lr, low=low, warmup=config.warmup, total=total
        )
    return lambda step: infinite(
        step + 1,
        peak=config.lr,
        low=low or 0.01 * config.lr,
        total=total + 1,
        constant=more.held * config.lr,
        bounds=more.ends,
        first_task=first_task,
        cooldown=more.cooldown,
    )


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
