"""Drop path: while training, a block's branch is passed over for some samples.

Source: Huang et al. 2016, "Deep Networks with Stochastic Depth", arXiv:1603.09382; the rate rises
from 0 at the first block of the encoder to its full value at the last one.

Which branches a sample keeps is drawn for that sample and step, so it does not depend on how a
batch is spread over ranks and accumulation steps, nor on what was drawn before an interruption.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from preprocessing.randomness import generator
from training.optim import ENCODER_BLOCK

BRANCHES = ("attn", "mlp", "ls")
"what a block adds to its input, by the names of all families"
KEPT = "kept_branches"
"of a batch: (B, branches) float32, 0 or what makes up for the samples that are passed over"


@dataclass(slots=True)
class DropPath:
    """The branches of an encoder, and which of them each sample of the current batch keeps."""

    seed: int
    rates: list[float] = field(default_factory=list)
    "of each branch"
    kept: Tensor | None = None
    "those of the batch that is computed now; None keeps all"

    def draw(self, batch: dict[str, Any], step: int) -> dict[str, Any]:
        """Return the batch with what its samples keep in a step."""
        rates = torch.tensor(self.rates)
        draws = [
            torch.from_numpy(generator(self.seed, step, int(one), "path").random(len(rates)))
            for one in batch["sample"]
        ]
        kept = (torch.stack(draws) >= rates).float() / (1 - rates)
        return {**batch, KEPT: kept}

    def scale(self, branch: int, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Return what a branch adds (B, N, D), scaled; a forward hook. Evaluation keeps all."""
        if self.kept is None or not module.training:
            return output
        return output * self.kept[:, branch, None, None].to(output.dtype)


def drop_paths(model: nn.Module, rate: float, seed: int) -> DropPath:
    """Make the branches of a model's encoder heed the `DropPath` that is returned.

    Raises:
        ValueError: the encoder has no blocks that it knows.
    """
    blocks = {
        int(found[1]): module
        for name, module in model.named_modules()
        if (found := ENCODER_BLOCK.fullmatch(f"{name}."))
    }
    paths = DropPath(seed)
    for number, block in sorted(blocks.items()):
        for name, branch in block.named_children():
            if name in BRANCHES:
                branch.register_forward_hook(partial(paths.scale, len(paths.rates)))
                paths.rates.append(rate * number / max(len(blocks) - 1, 1))
    if not paths.rates:
        raise ValueError(
            f"drop_path is {rate}, but no block of this model has a branch named one of "
            f"{', '.join(BRANCHES)}. Add its name in training/drop_path.py."
        )
    return paths
