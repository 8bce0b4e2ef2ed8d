"""torch.compile of a model, block by block: blocks of one shape share their compiled code, so a
deep model compiles no longer than a shallow one.

Only training runs compiled: what evaluation computes, at other batch sizes, would add versions of
the code, and a resumed run that made them in another order could differ in the last digits.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from training.recompute import BLOCKS

SHAPES = 4
"versions of a block for one set of hooks: encoder, decoder, its last block, one to spare"


def compile_blocks(model: nn.Module, device: torch.device) -> None:
    """Make every transformer block of a model train compiled; names stay the same, numbers differ
    in the last digits. Without a C++ compiler on a CPU, warn and leave the model as it is.
    """
    if device.type == "cpu" and not shutil.which(compiler := os.environ.get("CXX", "g++")):
        warnings.warn(
            f"compile is true, but there is no C++ compiler {compiler!r}; training goes on without "
            "compilation. Install g++, or name another compiler by the variable CXX.",
            stacklevel=2,
        )
        return
    blocks = [module for module in model.modules() if isinstance(module, BLOCKS)]
    # Drop path hooks each block with a number of its own, so each has a version of its own.
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, SHAPES + len(blocks))
    for block in blocks:
        block.forward = _when_training(block.forward)


def _when_training(forward: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(forward, dynamic=False)

    def run(*arguments: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else forward)(*arguments)

    return run
