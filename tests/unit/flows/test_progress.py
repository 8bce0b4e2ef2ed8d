"""Progress lines: rate and time left, also of what is resumed."""

from __future__ import annotations

import pytest

from flows import progress


def test_lines_tell_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0, 4.0, 14.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines: list[str] = []
    seen: list[tuple[str, int, int]] = []
    with progress.also_told(lambda *what: seen.append(what)):
        report = progress._Lines(lines.append)
    for done in (101, 102, 103, 105, 115):
        report("train", done, 135)
    assert lines == [
        "train: 103/135, 1.5/s, 21 s left",
        "train: 115/135, 1.07/s, 19 s left",
    ]
    assert seen == [("train", 103, 135), ("train", 115, 135)]
