"""Progress on standard error: what, done / total, rate and time left, for anything over two
seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from flows.options import note, say

Report = Callable[[str, int, int], None]
QUIET_SECONDS = 2.0
LINE_SECONDS = 10.0
_also: ContextVar[Report | None] = ContextVar("_also", default=None)


@contextmanager
def also_told(report: Report) -> Iterator[None]:
    """Tell the progress of this block to another one besides; lines are as rare as in a log."""
    token = _also.set(report)
    try:
        yield
    finally:
        _also.reset(token)


@contextmanager
def show_progress() -> Iterator[Report]:
    """Yield a function (what, done, total) that draws bars on a terminal, or a line every ten
    seconds elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(say)
        return
    lines = _Lines(note)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)
            lines(what, done, total)

        yield report


class _Lines:
    """Progress for logs: nothing in the first seconds, then a line now and then, with the time
    left."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell, self.also = tell, _also.get()
        self.first: dict[str, tuple[float, int]] = {}
        self.told: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        # What a resumed run had done before does not count into its rate.
        began, before = self.first.setdefault(what, (now, done - 1))
        last = self.told.get(what, began - LINE_SECONDS + QUIET_SECONDS)
        if now - last < LINE_SECONDS:
            return
        self.told[what] = now
        rate = (done - before) / (now - began)
        left = f"{(total - done) / rate:.0f} s left"
        self.tell(f"{what}: {done}/{total}, {rate:.3g}/s, {left}")
        if self.also:
            self.also(what, done, total)
