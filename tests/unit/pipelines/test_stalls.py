"""What a consumer waited for is told by stage, and advice follows from it."""

from __future__ import annotations

import timeit

import pytest

from pipelines.stalls import STAGES, Clock, Stalls

BUILT = {"read": 1.0, "verify": 0.0, "decode": 6.0, "mask": 1.0, "join": 0.0}


def stalls(workers: int, asked: float, came: float, done: float) -> Stalls:
    found = Stalls(workers)
    found.add(asked, came, done, BUILT)
    found.seconds = 20.0
    return found


def test_a_wait_is_split_by_what_was_being_done() -> None:
    found = stalls(1, asked=10, came=15, done=14)
    assert found.waited["transfer"] == pytest.approx(1)
    assert found.waited["decode"] == pytest.approx(3)
    assert sum(found.waited.values()) == pytest.approx(5)


def test_a_batch_that_was_ready_only_has_to_come() -> None:
    found = stalls(1, asked=10, came=10.5, done=4)
    assert found.waited["transfer"] == pytest.approx(0.5)
    assert found.advice() == "step-bound: 2% of the time is spent waiting for data."


def test_advice_names_the_stage_and_the_workers() -> None:
    found = stalls(0, asked=2, came=18, done=18)
    assert found.advice().startswith("decode-bound: 80% of the time")
    assert found.advice().endswith("2 more workers would hide it.")
    assert "could not hide" in stalls(0, asked=0, came=19.99, done=19.99).advice()
    slow = stalls(4, asked=2, came=18, done=1)
    assert "transfer-bound" in slow.advice()


def test_the_share_of_a_run_is_its_own() -> None:
    found = stalls(0, asked=2, came=18, done=18)
    assert found.advice(0.5).startswith("decode-bound: 50% of the time")
    assert found.advice(0.5).endswith("; 1 more worker would hide it.")
    assert found.advice(0.01).startswith("step-bound: 1%")
    assert found.summary(0.01)["advice"] == found.advice(0.01)


def test_laps_cost_less_than_a_hundredth() -> None:
    clock = Clock()
    seconds = min(timeit.repeat(lambda: clock.lap("decode"), number=2000, repeat=5)) / 2000
    assert 7 * seconds < 0.01 * 500e-6  # laps of a sample; the fastest samples take 500 us
    assert set(clock.seconds) == set(STAGES)
