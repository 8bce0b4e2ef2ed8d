"""Lists of files: CSV, Parquet or JSONL with a column of paths and any columns of metadata."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet

from storage.fs import Store, split_uri

LIST_ENDINGS = (".csv", ".parquet", ".jsonl")
_PATH_COLUMNS = ("path", "uri", "file", "filename")


def read_list(store: Store, name: str, labels: str) -> Iterator[dict[str, Any]]:
    """Yield the inputs that a list names, sorted by place; a path named twice is one input.

    Columns `start` and `end` are seconds of a video: each row with them is a segment to take.

    Raises:
        ValueError: no column of paths, no column of labels, or a segment that is none.
    """
    table = _read_table(store.read(name), name)
    column = next((word for word in _PATH_COLUMNS if word in table.column_names), None)
    if len(table) and column is None:
        raise ValueError(
            f"{name}: has the columns {table.column_names}, none of them names files. "
            f"Call one of them {', '.join(_PATH_COLUMNS)}."
        )
    if labels not in ("", "parent", *table.column_names):
        raise ValueError(
            f"--labels {labels}: {name} has the columns {table.column_names}. Name one of these."
        )
    places: dict[tuple[str, str], dict[str, Any]] = {}
    for number, row in enumerate(table.to_pylist(), 1):
        path = str(row.pop(str(column)))
        place = _place(store, path)
        segment = _segment(row, f"{name}, row {number}")
        found = places.get(place)
        if found is None:
            label = PurePosixPath(path).parent.name if labels == "parent" else row.get(labels, "")
            kept = {key: value for key, value in row.items() if value is not None}
            found = places[place] = {"label": str(label), "metadata": kept, "segments": []}
        found["segments"] += segment
    for (root, below), found in sorted(places.items()):
        yield _input(root, below, found)


def _place(store: Store, path: str) -> tuple[str, str]:
    """Return the root of a path and its name below it."""
    if not path.startswith("/") and "://" not in path:
        return store.uri, path
    return split_uri(path)


def _segment(row: dict[str, Any], where: str) -> list[list[float]]:
    start, end = row.pop("start", None), row.pop("end", None)
    if start is None and end is None:
        return []
    try:
        begin, finish = float(start or 0), float(end if end is not None else "inf")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: start {start!r} and end {end!r} are not seconds.") from error
    if not 0 <= begin < finish:
        raise ValueError(
            f"{where}: the segment from {begin} to {finish} s is empty. Give 0 <= start < end."
        )
    return [[begin, min(finish, 1e12)]]


def _input(root: str, below: str, found: dict[str, Any]) -> dict[str, Any]:
    """Return the listing's row of a file that a list names; a missing one is told as such."""
    extra = dict(found["metadata"])
    if found["segments"]:
        extra["segments"] = sorted(found["segments"])
    row = {"root": root, "name": below, "size": 0, "label": found["label"]}
    row["extra"] = json.dumps(extra, sort_keys=True, default=str) if extra else ""
    try:
        row["size"] = Store(root).size(below)
    except FileNotFoundError:
        row["problem"] = "missing_file: listed, but there is no such file"
    except ValueError as error:
        row["problem"] = f"missing_file: listed, but {error}"
    return row


def _read_table(data: bytes, name: str) -> pa.Table:
    try:
        if name.lower().endswith(".jsonl"):
            rows = [json.loads(line) for line in data.splitlines() if line.strip()]
            return pa.Table.from_pylist(rows)
        if name.lower().endswith(".parquet"):
            return parquet.read_table(io.BytesIO(data))
        return csv.read_csv(io.BytesIO(data))
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f"{name}: not a readable list of files ({error}).") from error
