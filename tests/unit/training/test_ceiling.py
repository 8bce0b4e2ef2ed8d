"""The ceiling of a run: how often a step is repeated for it, and on what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from training import ceiling
from training.ceiling import Cached, measure_ceiling
from training.drop_path import KEPT
from training.loop import Batch, Trainer

Make = Callable[..., Trainer]
Serve = Callable[[int, int], Iterator[Batch]]


def passed(batches: Iterator[Batch]) -> Cached:
    """Return batches that a loop has taken, of two datasets in turns of two and one."""
    cached = Cached(
        {**batch, "stream": torch.tensor(int(i % 3 == 2))} for i, batch in enumerate(batches)
    )
    for _ in cached:
        pass
    return cached


def test_the_first_batch_of_each_dataset_is_kept(batches: Serve) -> None:
    cached = passed(batches(0, 6))
    assert cached.counts == {0: 4, 1: 2}
    assert [int(batch["sample"][0]) for batch in cached.first.values()] == [0, 16]


def test_datasets_count_as_often_as_they_came(
    trainer: Make, batches: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {0: 1.0, 1: 4.0}

    def took(trainer: Trainer, batch: Batch, count: int) -> float:
        return seconds[int(batch["stream"])]

    monkeypatch.setattr(ceiling, "_step_seconds", took)
    assert measure_ceiling(trainer(), passed(batches(0, 6)), 400) == 48 / (4 * 1.0 + 2 * 4.0)


@pytest.mark.parametrize(
    ("steps", "repeated"), [(199, 0), (399, 0), (400, 2 * 2), (1000, 2 * 5), (10**6, 2 * 20)]
)
def test_a_hundredth_of_the_steps_is_repeated_at_most(
    steps: int,
    repeated: int,
    trainer: Make,
    batches: Serve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(ceiling, "take_step", lambda *given: taken.append(given))
    rate = measure_ceiling(trainer(drop_path=0.1), passed(batches(0, 3)), steps)
    assert all(KEPT in batch for _, batch in taken), "as the loop hands batches on"
    assert len(taken) == repeated <= steps / 100
    assert (rate is None) == (repeated == 0)
