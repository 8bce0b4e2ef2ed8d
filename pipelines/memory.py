"""Memory of batches, written again once nobody holds it.

Fresh pages cost more than what is written into them: the system clears each one first. A batch of
64 pictures in fresh shared memory takes 8 ms longer than in memory that was written before.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

try:
    from torch.multiprocessing.reductions import StorageWeakRef
except ImportError:  # torch promises it to nobody; without it each batch gets fresh memory
    StorageWeakRef = None

_KEPT = 3
"Blocks that a process keeps: the batch in use, the one being made, and one let go late."
_SHARED = 8
"Blocks that a worker keeps: those ahead, the one being made, and those that a trainer holds."


def _holders(blocks: Sequence[NDArray[Any]], number: int) -> int:
    return sys.getrefcount(blocks[number])


_NOBODY = _holders([np.empty(0)], 0)


class Blocks:
    """Blocks of memory of one process. A tensor holds its block as long as any view of it lives."""

    def __init__(self) -> None:
        self._blocks: list[NDArray[np.uint8]] = []
        self.taken = -1

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor with arbitrary content, in a block that nobody holds or in a new one."""
        size = math.prod(shape) * dtype.itemsize
        free = [n for n in range(len(self._blocks)) if _holders(self._blocks, n) == _NOBODY]
        fits = [n for n in free if len(self._blocks[n]) == size]
        if not fits:
            self._blocks = [*self._blocks[1 - _KEPT :], np.empty(size, np.uint8)]
        block = self._blocks[fits[0] if fits else -1]
        return torch.from_numpy(block).view(dtype).view(tuple(shape))


class Loans:
    """Blocks of workers that this process has received: told to be free once no tensor has them."""

    def __init__(self, workers: int) -> None:
        self.used = torch.zeros(workers, _SHARED, dtype=torch.uint8).share_memory_()
        "1 where a block is in use, seen by all processes; a worker sets it, this one clears it"
        self._lent: dict[int, StorageWeakRef] = {}

    def lend(self, block: int, pixels: torch.Tensor | NDArray[Any]) -> None:
        """Remember that `pixels` lie in a block; an array is a copy of it, which is free then."""
        if block < 0:
            return
        if not isinstance(pixels, torch.Tensor):
            self.used.view(-1)[block] = 0
        elif StorageWeakRef is not None:
            self._lent[block] = StorageWeakRef(pixels.untyped_storage())

    def settle(self) -> None:
        """Give the blocks back that nobody holds any more."""
        for block in [block for block, storage in self._lent.items() if storage.expired()]:
            del self._lent[block]
            self.used.view(-1)[block] = 0


class SharedBlocks:
    """Blocks of a worker's memory that its tensors are sent in without a copy."""

    def __init__(self, worker: int, used: torch.Tensor | None) -> None:
        self._first = worker * _SHARED
        self._used = None if used is None else used[worker].numpy()
        self._blocks: list[torch.Tensor] = []
        self.taken = -1
        "number of the block taken last; -1 for one that is never written again"

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor with arbitrary content, in a block that is free or in a new one."""
        size = math.prod(shape) * dtype.itemsize
        number = self._number(size)
        if number < 0 or self._used is None:
            block, self.taken = _shared(size), -1
        else:
            block, self.taken = self._blocks[number], self._first + number
            self._used[number] = 1
        return block.view(dtype).view(tuple(shape))

    def _number(self, size: int) -> int:
        """Return the number of a free block of a size, made where need be; -1 if none is free."""
        if self._used is None:
            return -1
        free = [n for n in range(len(self._blocks)) if not self._used[n]]
        fits = [n for n in free if self._blocks[n].nbytes == size]
        if fits:
            return fits[0]
        if len(self._blocks) < _SHARED:
            self._blocks.append(_shared(size))
            return len(self._blocks) - 1
        if free:
            self._blocks[free[0]] = _shared(size)
        return free[0] if free else -1


def _shared(size: int) -> torch.Tensor:
    """Return fresh bytes in shared memory."""
    new = getattr(torch.UntypedStorage, "_new_shared", None)
    if new is None:  # torch promises it to nobody; what it promises copies the bytes there
        return torch.empty(size, dtype=torch.uint8).share_memory_()
    return torch.empty(0, dtype=torch.uint8).set_(new(size))
