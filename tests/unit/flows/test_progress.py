"""Progress lines: rate and time left, also of what is resumed."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from flows import progress


def test_lines_tell_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0, 4.0, 14.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    buffer = io.StringIO()
    report = progress._Lines(Console(file=buffer, width=100))
    for done in (101, 102, 103, 105, 115):
        report("train", done, 135)
    lines = buffer.getvalue().splitlines()
    assert lines == [
        "train: 103/135, 1.5/s, 21 s left",
        "train: 115/135, 1.07/s, 19 s left",
    ]
