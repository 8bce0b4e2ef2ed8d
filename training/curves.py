"""Curves for TensorBoard: what metrics.jsonl says, in its files, on any store.

A part is written with each checkpoint, named after its step, so that a run which goes back drops
the parts behind it and writes them again. Times are seconds of training, not of the clock.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from storage.fs import Store

_NOT_DRAWN = {"step", "seconds", "samples"}


def write_curves(store: Store, run: str, lines: Sequence[dict[str, Any]], step: int) -> None:
    """Write the part of the curves that ends with `step`, from all lines of the log."""
    before = max((at for at in _parts(store, run) if at < step), default=0)
    store.write(_path(run, step), event_bytes(lines, before))


def drop_curves(store: Store, run: str, after: int) -> None:
    """Remove the parts behind a step."""
    for step in _parts(store, run):
        if step > after:
            store.delete(_path(run, step))


def event_bytes(lines: Sequence[dict[str, Any]], before: int) -> bytes:
    """Return the events of the lines after a step, as TensorBoard reads them."""
    # Imported here, as it takes a second.
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
    seconds = 0.0
    for line in lines:
        seconds += line.get("seconds", 0.0)
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in line.items()
            if isinstance(value, int | float) and name not in _NOT_DRAWN
        ]
        if line["step"] > before and values:
            event = Event(wall_time=seconds, step=line["step"], summary=Summary(value=values))
            writer.write(event.SerializeToString())
    return buffer.getvalue()


def _parts(store: Store, run: str) -> list[int]:
    entries = store.list(f"runs/{run}/tensorboard")
    return sorted(int(entry.path.rsplit(".", 2)[1]) for entry in entries)


def _path(run: str, step: int) -> str:
    return f"runs/{run}/tensorboard/events.out.tfevents.{step:010d}.headrace"
