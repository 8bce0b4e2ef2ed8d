"""Interleaved rounds of contenders on the same work: median, spread and ratio, wall and CPU.

Each turn is a fresh process that adopts whatever its contender starts (pools, fork servers, a Ray
cluster), so the CPU time of the whole tree is counted. Between rounds a fixed piece of work tells
how fast the machine is at that moment; rounds in which it was more than a tenth off are run again.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

_PR_SET_CHILD_SUBREAPER = 36
STEADY = 0.10
"how far from its median the fixed work may be in a round that counts"
_REAP_SECONDS = 20.0
_SAMPLE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of one contender."""

    wall: float
    "seconds"
    cpu: float
    "seconds of the process and of all that it started"
    items: int


Rounds = dict[str, list[Turn]]
Work = Callable[[], int]
"does the work in this process or in others, and returns how many items are finished"


def run_rounds(contenders: Mapping[str, Work], rounds: int = 5) -> Rounds:
    """Run every contender once a round, in turn, until `rounds` rounds were steady.

    After twice as many rounds the steadiest ones are taken, and standard error says so.
    """
    paces: list[float] = []
    done: list[dict[str, Turn]] = []
    while len(done) < rounds or (_steady(paces) < rounds and len(done) < 2 * rounds):
        before = _pace()
        done.append({name: take_turn(work) for name, work in contenders.items()})
        paces.append((before + _pace()) / 2)
        print(f"round {len(done)}: fixed work took {paces[-1]:.3f} s", file=sys.stderr)
    if _steady(paces) < rounds:
        print("the machine was not steady: run this again when nothing else does", file=sys.stderr)
    middle = statistics.median(paces)
    kept = sorted(range(len(done)), key=lambda i: abs(paces[i] - middle))[:rounds]
    return {name: [done[i][name] for i in sorted(kept)] for name in contenders}


def _steady(paces: Sequence[float]) -> int:
    middle = statistics.median(paces)
    return sum(abs(pace / middle - 1) <= STEADY for pace in paces)


def _pace() -> float:
    """Return the CPU seconds of a fixed piece of work: encode and decode one picture 60 times."""
    picture = np.random.default_rng(0).integers(0, 255, (375, 500, 3), np.uint8)
    began = time.process_time()
    for _ in range(60):
        cv2.imdecode(cv2.imencode(".jpg", picture)[1], cv2.IMREAD_COLOR)
    return time.process_time() - began


def take_turn(work: Work) -> Turn:
    """Run a contender in a process of its own, and count all the CPU time that it causes.

    Raises:
        RuntimeError: the contender failed; what it printed says why.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(work, sender))
    process.start()
    sender.close()
    seen: dict[int, float] = {}
    try:
        while not receiver.poll(_SAMPLE_SECONDS):
            seen.update(_cpu_below(int(process.pid or 0)))
        turn: Turn = receiver.recv()
    except EOFError:
        raise RuntimeError("a contender failed; its error is above.") from None
    finally:
        process.join()
    return replace(turn, cpu=max(turn.cpu, sum(seen.values())))


def _cpu_below(root: int) -> dict[int, float]:
    """Return the CPU seconds of a process and of each that it started, those that live now.

    Ray lets the system forget its workers' times when they end, so they are looked at while they
    run.
    """
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:  # it ended
            continue
        parents[int(place.parent.name)] = int(fields[1])
        ticks = int(fields[11]) + int(fields[12])
        seconds[int(place.parent.name)] = ticks / os.sysconf("SC_CLK_TCK")
    below = {root}
    while more := {pid for pid, above in parents.items() if above in below} - below:
        below |= more
    return {pid: seconds[pid] for pid in below & seconds.keys()}


def _measured(work: Work, sender: object) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    began, before = time.perf_counter(), _cpu()
    items = work()
    wall = time.perf_counter() - began
    _reap()
    sender.send(Turn(wall, _cpu() - before, items))  # type: ignore[attr-defined]


def _reap() -> None:
    """Wait for what the contender left behind: a process is counted when it is waited for."""
    until = time.monotonic() + _REAP_SECONDS
    while time.monotonic() < until:
        try:
            found, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not found:
            time.sleep(0.02)
    print("a contender left processes behind; their CPU time is not counted", file=sys.stderr)


def _cpu() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def command(arguments: Sequence[str], items: int, **variables: str) -> Work:
    """Return the work of a command line, cold: interpreter and imports are part of it.

    Args:
        items: how many items it finishes.
        variables: added to the environment.
    """

    def work() -> int:
        done = subprocess.run(
            arguments, env={**os.environ, **variables}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-4000:], file=sys.stderr)
            raise RuntimeError(f"{' '.join(arguments[:3])}: exit status {done.returncode}.")
        return items

    return work


def without(turns: Rounds, start: Rounds) -> Rounds:
    """Return turns less the median start-up of the same contender, in the items that remain."""
    left: Rounds = {}
    for name, found in turns.items():
        wall = statistics.median(turn.wall for turn in start[name])
        cpu = statistics.median(turn.cpu for turn in start[name])
        items = start[name][0].items
        left[name] = [
            replace(
                turn,
                wall=max(turn.wall - wall, 1e-9),
                cpu=max(turn.cpu - cpu, 1e-9),
                items=turn.items - items,
            )
            for turn in found
        ]
    return left


def table(turns: Rounds, ours: str, unit: str) -> str:
    """Return a Markdown table: items by CPU and wall second (median, min-max), and ours to each."""
    lines = [
        f"| contender | {unit}/CPU-s | min-max | {unit}/s wall | {ours}: CPU | {ours}: wall |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in turns.items():
        by_cpu = [turn.items / turn.cpu for turn in found]
        by_wall = [turn.items / turn.wall for turn in found]
        pairs = list(zip(turns[ours], found, strict=True))
        cpu = statistics.median(a.items / a.cpu * b.cpu / b.items for a, b in pairs)
        wall = statistics.median(a.items / a.wall * b.wall / b.items for a, b in pairs)
        lines.append(
            f"| {name} | {statistics.median(by_cpu):,.1f} | {min(by_cpu):,.1f}-{max(by_cpu):,.1f} "
            f"| {statistics.median(by_wall):,.1f} | {cpu:.2f}x | {wall:.2f}x |"
        )
    rounds = len(next(iter(turns.values())))
    return "\n".join(lines) + f"\n\n{rounds} interleaved rounds, {os.cpu_count()} cores\n"
