"""Activation checkpointing: blocks keep their input alone and are computed again for gradients.

Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from training.models.blocks import Block
from training.models.crossmae import CrossBlock
from training.models.micromae import ParallelBlock

BLOCKS = (Block, CrossBlock, ParallelBlock)
"of all families; a new kind of block belongs here"


def recompute_blocks(model: nn.Module) -> None:
    """Make every transformer block of a model recompute; names and numbers stay the same."""
    for module in model.modules():
        if isinstance(module, BLOCKS):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)
