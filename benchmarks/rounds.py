"""Interleaved rounds of contenders on the same work: median, spread and ratio, wall and CPU
seconds.

Each turn is a fresh process, so that its CPU time (with its children's) can be read whole and
nobody inherits a warm
interpreter. Speed counts only when every contender's outputs pass the same check.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of one contender."""

    wall: float
    cpu: float
    items: int


def run_rounds(contenders: dict[str, Callable[[], int]], rounds: int = 5) -> dict[str, list[Turn]]:
    """Run every contender once a round, in turn; a contender returns how many items it finished."""
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            turns[name].append(_turn(work))
    return turns


def _turn(work: Callable[[], int]) -> Turn:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(work, sender))
    process.start()
    turn: Turn = receiver.recv()
    process.join()
    return turn


def _measured(work: Callable[[], int], sender: object) -> None:
    began, before = time.perf_counter(), _cpu()
    items = work()
    sender.send(Turn(time.perf_counter() - began, _cpu() - before, items))  # type: ignore[attr-defined]


def _cpu() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def table(turns: dict[str, list[Turn]], ours: str, unit: str) -> str:
    """Return a Markdown table: items a second by CPU and wall (median, min-max) and our ratio to
    each."""
    by_cpu = {n: [t.items / t.cpu for t in found] for n, found in turns.items()}
    by_wall = {n: [t.items / t.wall for t in found] for n, found in turns.items()}
    lines = [
        f"| contender | {unit}/CPU-s | min-max | {unit}/s wall | {ours} is |",
        "| --- | --- | --- | --- | --- |",
    ]
    mine = statistics.median(by_cpu[ours])
    for name, rates in by_cpu.items():
        middle = statistics.median(rates)
        lines.append(
            f"| {name} | {middle:.1f} | {min(rates):.1f}-{max(rates):.1f} | "
            f"{statistics.median(by_wall[name]):.1f} | {mine / middle:.2f}x |"
        )
    return (
        "\n".join(lines) + f"\n\n{len(next(iter(turns.values())))} rounds, {os.cpu_count()} cores"
    )
