"""Interleaved rounds of functions that need no process of their own: one warm process, one thread.

For work of milliseconds, where a process for each turn would time its start: page faults after a
fork, caches, the first call of a library. Every contender gets the same: a turn to warm up that
does not count, then one turn a round, in an order that moves on from round to round.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import cv2
import torch

from benchmarks.rounds import Rounds, Turn, Work


def warm_rounds(contenders: Mapping[str, Work], rounds: int = 5) -> Rounds:
    """Run every contender once a round in this process, each on one thread."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    names = list(contenders)
    turns: Rounds = {name: [] for name in names}
    for name in names:
        contenders[name]()
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            turns[name].append(_turn(contenders[name]))
    return turns


def _turn(work: Work) -> Turn:
    wall, cpu = time.perf_counter(), time.process_time()
    items = work()
    return Turn(time.perf_counter() - wall, time.process_time() - cpu, items)
