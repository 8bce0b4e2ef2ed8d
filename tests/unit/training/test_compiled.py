"""Compiled blocks: the same training, to the bit when it is resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from training.loop import Batch, Trainer, take_step
from training.state import restore, snapshot_state

Serve = Callable[[int, int], Iterator[Batch]]
Make = Callable[..., Trainer]


def losses(trainer: Trainer, batches: Iterator[Batch]) -> list[float]:
    found = []
    for batch in batches:
        if trainer.paths is not None:
            batch = trainer.paths.draw(batch, step=int(batch["sample"][0]))
        found.append(float(take_step(trainer, batch)["loss"]))
    return found


def test_without_a_compiler_training_goes_on_and_says_so(
    trainer: Make, batches: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler '/nowhere/g\+\+'.*Install g\+\+"):
        made = trainer(compile=True)
    assert losses(made, batches(0, 2)) == losses(trainer(), batches(0, 2))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"recompute": True, "drop_path": 0.5}])
def test_a_compiled_model_trains_alike_and_resumes_to_the_bit(
    trainer: Make, batches: Serve, changes: dict[str, Any]
) -> None:
    plain, whole = trainer(**changes), trainer(compile=True, **changes)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = losses(whole, batches(0, 4))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2  # encoder and decoder
    assert found == pytest.approx(losses(plain, batches(0, 4)), rel=1e-3)
    assert list(whole.model.state_dict()) == list(plain.model.state_dict())

    first, second = trainer(compile=True, **changes), trainer(compile=True, **changes)
    losses(first, batches(0, 2))
    restore(second, snapshot_state(first, 2))
    torch._dynamo.reset()
    assert losses(second, batches(2, 4)) == found[2:]
    pairs = zip(second.model.parameters(), whole.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
