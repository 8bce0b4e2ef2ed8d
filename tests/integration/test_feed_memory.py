"""Batches that somebody holds never change, though workers write into the same few blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.feed import open_feed
from pipelines.memory import Loans
from preprocessing.views import ViewConfig
from storage.fs import Store, open_store
from tests.integration.feed_sets import PLAIN, fill, same

STOP = 40


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder: Path = tmp_path_factory.mktemp("memory")
    return fill(open_store(folder / "store"), folder / "raw")


@pytest.mark.parametrize("size", [32, 320])
def test_held_batches_never_change(
    size: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lent: list[tuple[int, bool]] = []
    real = Loans.lend

    def lend(loans: Loans, block: int, pixels: Any) -> None:
        lent.append((block, isinstance(pixels, np.ndarray)))
        real(loans, block, pixels)

    monkeypatch.setattr(Loans, "lend", lend)
    stream = replace(PLAIN, view=ViewConfig(size=size))
    feed = open_feed(store, stream, stop=STOP, workers=2)
    # All batches at first, which takes every block; then one in three, through a view of a row.
    held: dict[int, dict[str, torch.Tensor]] = {}
    for number, batch in enumerate(feed):
        if number < STOP // 2 or number % 3 == 0:
            held[number] = {name: value[1:] for name, value in batch.items()}
        if number == STOP // 2:
            for early in range(5, STOP // 2):
                del held[early]
        del batch
    feed.close()
    for number, wanted in enumerate(open_feed(store, stream, stop=STOP)):
        if number in held:
            assert same(held[number], {name: value[1:] for name, value in wanted.items()})
    blocks = [block for block, _ in lent if block >= 0]
    assert len(set(blocks)) < len(blocks), "no block was used twice, so nothing was tried"
    assert {by_pipe for _, by_pipe in lent} == {size == 32}
