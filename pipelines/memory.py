"""Memory of batches, written again once nobody holds it.

Fresh pages cost more than what is written into them: the system clears each one first.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_KEPT = 3
"Blocks that a process keeps: the batch in use, the one being made, and one let go late."


def _holders(blocks: Sequence[NDArray[Any]], number: int) -> int:
    return sys.getrefcount(blocks[number])


_NOBODY = _holders([np.empty(0)], 0)


class Blocks:
    """Blocks of memory of one process. A tensor holds its block as long as any view of it lives."""

    def __init__(self) -> None:
        self._blocks: list[NDArray[np.uint8]] = []

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor with arbitrary content, in a block that nobody holds or in a new one."""
        size = math.prod(shape) * dtype.itemsize
        free = [n for n in range(len(self._blocks)) if _holders(self._blocks, n) == _NOBODY]
        fits = [n for n in free if len(self._blocks[n]) == size]
        if not fits:
            self._blocks = [*self._blocks[1 - _KEPT :], np.empty(size, np.uint8)]
        block = self._blocks[fits[0] if fits else -1]
        return torch.from_numpy(block).view(dtype).view(tuple(shape))
