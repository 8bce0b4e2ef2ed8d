"""The loop: steps, resume, accumulation, what it logs and when it stops."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from training.guard import BadStep, Guard, GuardConfig
from training.heldout import look
from training.loop import Batch, Hooks, Trainer, sample_losses, take_step, train
from training.state import restore, snapshot_state

Make = Callable[[], Trainer]
Serve = Callable[[int, int], Iterator[Batch]]
MakeHooks = Callable[..., Hooks]


def same(first: Trainer, second: Trainer) -> bool:
    """Return whether two trainers hold equal weights, bit for bit."""
    states = first.model.state_dict(), second.model.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_resumed_equals_uninterrupted(trainer: Make, batches: Serve, hooks: MakeHooks) -> None:
    whole = trainer()
    train(whole, batches(0, 8), range(0, 8), hooks())
    first = trainer()
    train(first, batches(0, 3), range(0, 3), hooks())
    kept = io.BytesIO()
    torch.save(snapshot_state(first, 3), kept)
    kept.seek(0)
    second = trainer()
    restore(second, torch.load(kept, weights_only=True))
    train(second, batches(3, 8), range(3, 8), hooks())
    assert same(whole, second)
    assert not same(whole, first)


def test_accumulation_is_the_same_step(trainer: Make, batches: Serve) -> None:
    whole, parts = trainer(), trainer()
    parts.accumulate = 4
    for one, two in zip(batches(0, 3), batches(0, 3), strict=True):
        take_step(whole, one)
        take_step(parts, two)
    for name, value in whole.model.state_dict().items():
        other = parts.model.state_dict()[name]
        if name.endswith("qkv.bias"):
            # A key bias moves no attention: its gradient is rounding alone, which Adam enlarges.
            value[len(value) // 3 : 2 * len(value) // 3] = 0
            other[len(value) // 3 : 2 * len(value) // 3] = 0
        torch.testing.assert_close(other, value, rtol=1e-3, atol=1e-4)


def test_loss_falls_and_lines_tell_it(trainer: Make, batches: Serve, hooks: MakeHooks) -> None:
    lines: list[dict[str, Any]] = []
    made = trainer()
    made.rate = lambda step: 3e-3
    once = list(batches(0, 1)) * 40
    train(made, once, range(0, 40), hooks(lines, log_every=20))
    assert [line["step"] for line in lines] == [1, 20, 40]
    assert lines[-1]["loss"] < 0.95 * lines[0]["loss"]
    assert {"lr", "grad_norm", "samples_per_second", "data_wait_share"} <= set(lines[-1])
    assert sum(line["samples"] for line in lines) == 40 * 8


def test_heldout_joins_the_line_of_its_step(
    trainer: Make, batches: Serve, hooks: MakeHooks
) -> None:
    lines: list[dict[str, Any]] = []
    figures = {"heldout_loss": 0.5}
    given = hooks(lines, evaluate=lambda: figures, heldout_every=2, log_every=4)
    train(trainer(), batches(0, 4), range(0, 4), given)
    assert [(line["step"], line.get("heldout_loss")) for line in lines] == [
        (1, None),
        (2, 0.5),
        (4, 0.5),
    ]


def test_heldout_figures_are_the_same_each_time(trainer: Make, batches: Serve) -> None:
    made = trainer()
    first = look(made, batches(0, 3), samples=24)
    assert first == look(made, batches(0, 3), samples=24)
    assert first["heldout_loss"] > 0
    assert look(made, [], samples=24) == {}


def test_asked_to_stop_it_saves_and_returns(
    trainer: Make, batches: Serve, hooks: MakeHooks
) -> None:
    saved: list[int] = []
    given = hooks(save=saved.append, tick=lambda step: step == 3)
    assert train(trainer(), batches(0, 8), range(0, 8), given) == 3
    assert saved == [3]


def test_a_loss_that_is_no_number_is_a_bad_step(
    trainer: Make, batches: Serve, hooks: MakeHooks
) -> None:
    made = trainer()
    made.rate = lambda step: float("nan")
    with pytest.raises(BadStep, match="step 2: the loss is nan"):
        train(made, batches(0, 8), range(0, 8), hooks())


def test_a_bad_step_is_named_however_late_its_figures_are_read(
    trainer: Make, batches: Serve
) -> None:
    made = trainer()
    for step, batch in enumerate(batches(0, 4)):
        figures = take_step(made, batch)
        if step == 1:
            figures["grad_norm"] = torch.tensor(float("inf"))
        made.window.add(step, figures, 8)
    with pytest.raises(BadStep) as found:
        made.window.settle(made.guard, scaled=False)
    assert found.value.step == 1


def test_a_spike_is_a_bad_step_once_enough_is_known() -> None:
    guard = Guard(GuardConfig(spike=3.0, window=4))
    for step, loss in enumerate((1.0, 9.0, 1.0, 1.0)):
        guard.judge(step, loss, 1.0)
    guard.judge(4, 2.9, 1.0)
    with pytest.raises(BadStep, match=r"step 6: the loss is 8, 4\.1 times the usual 1\.95"):
        guard.judge(5, 8.0, 1.0)
    Guard(GuardConfig(window=1)).judge(0, 1e9, 1.0)


def test_a_step_that_is_passed_over_changes_nothing(
    trainer: Make, batches: Serve, hooks: MakeHooks
) -> None:
    told: list[tuple[int, int]] = []
    given = hooks(skipped=lambda step, batch: told.append((step, int(batch["sample"][0]))))
    passed, never = trainer(), trainer()
    train(passed, batches(0, 4), range(0, 4), given, skip={1, 2})
    rates = [passed.rate(step) for step in (0, 3)]
    never.rate = lambda step: rates[step]
    train(never, [*batches(0, 1), *batches(3, 4)], range(0, 2), hooks())
    assert same(passed, never)
    assert told == [(1, 8), (2, 16)]


def test_each_sample_of_a_batch_has_its_own_loss(trainer: Make, batches: Serve) -> None:
    made = trainer()
    batch = next(batches(0, 1))
    losses = dict(sample_losses(made, batch))
    assert list(losses) == list(range(8))
    figures = take_step(made, batch)
    assert sum(losses.values()) / 8 == pytest.approx(float(figures["loss"]), rel=1e-5)


def test_a_feed_that_ends_early_is_an_error(
    trainer: Make, batches: Serve, hooks: MakeHooks
) -> None:
    with pytest.raises(ValueError, match="ended before step 3"):
        train(trainer(), batches(0, 2), range(0, 8), hooks())


def test_accumulation_must_divide_the_share(trainer: Make, batches: Serve) -> None:
    made = trainer()
    made.accumulate = 3
    with pytest.raises(ValueError, match="accumulate is 3"):
        take_step(made, next(batches(0, 1)))
