"""Workers write batches into the same few blocks, and never into one that somebody holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines import memory
from pipelines.memory import Loans, SharedBlocks

SHAPE = (4, 5)


def test_the_flag_alone_frees_a_block() -> None:
    loans = Loans(1)
    blocks = SharedBlocks(0, loans.used)
    taken = [blocks.take(SHAPE, torch.float32).data_ptr() for _ in range(8)]
    assert len(set(taken)) == 8
    blocks.take(SHAPE, torch.float32)
    assert blocks.taken == -1  # all in use: memory of its own
    loans.used[0, 3] = 0
    assert blocks.take(SHAPE, torch.float32).data_ptr() == taken[3]
    loans.used[0, 5] = 0
    blocks.take((2, 2), torch.uint8)  # a batch of another stream takes the place
    assert blocks.taken == 5
    assert blocks._blocks[5].nbytes == 4


def test_loans_end_with_the_storage() -> None:
    loans = Loans(1)
    loans.used[0, 2] = 1
    pixels = torch.zeros(6)
    part = pixels[2:]
    loans.lend(2, pixels)
    del pixels
    loans.settle()
    assert loans.used[0, 2] == 1
    del part
    loans.settle()
    assert loans.used[0, 2] == 0


def test_without_flags_memory_is_never_written_again() -> None:
    blocks = SharedBlocks(0, None)
    one, two = (blocks.take(SHAPE, torch.uint8) for _ in range(2))
    assert one.data_ptr() != two.data_ptr()
    assert one.is_shared()
    assert blocks.taken == -1


def test_a_block_that_came_as_a_copy_is_free_at_once() -> None:
    loans = Loans(1)
    loans.used[0, 2] = 1
    loans.lend(2, np.zeros(6))
    assert loans.used[0, 2] == 0


def test_a_torch_without_these_parts_gives_fresh_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.storage._StorageBase, "_new_shared")
    monkeypatch.setattr(memory, "StorageWeakRef", None)
    loans = Loans(1)
    blocks = SharedBlocks(0, loans.used)
    taken = []
    for _ in range(20):
        pixels = blocks.take(SHAPE, torch.float32)
        assert pixels.is_shared()
        taken.append(pixels.data_ptr())
        loans.lend(blocks.taken, pixels)
        loans.settle()
    assert len(set(taken[:9])) == 9
    assert blocks.taken == -1
