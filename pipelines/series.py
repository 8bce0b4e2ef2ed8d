"""Series: pictures of one place on several dates, found by the rows of a shard.

A shard holds neighbours of the listing, so the dates of a place lie together where files are sorted
by place; a series takes its pictures from one shard, so that shards are still read one by one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.rows import ShardRows

FIRST_YEAR = 2002
Stamp = tuple[int, int, int]
"year - 2002, month - 1 and hour"


@dataclass(frozen=True, slots=True)
class Places:
    """What the rows of one shard show, and when."""

    of: list[Hashable]
    "the place that each row shows"
    rows: dict[Hashable, list[int]]
    "the rows of each place, oldest first"
    stamps: list[Stamp]

    def draw(self, row: int, dates: int, rng: np.random.Generator) -> list[int]:
        """Return `dates` rows of the place that `row` shows, it among them, oldest first.

        A place with fewer pictures gives some of them again, as SatMAE has it; the epoch's proof
        tells how often that was.
        """
        others = [other for other in self.rows[self.of[row]] if other != row]
        wanted = dates - 1
        picked = rng.permutation(len(others))[:wanted].tolist()
        rows = [row, *(others[i] for i in picked)]
        rows += [rows[int(i)] for i in rng.integers(len(rows), size=dates - len(rows))]
        return sorted(rows, key=self.rows[self.of[row]].index)

    def dates(self, rows: Sequence[int]) -> NDArray[np.int64]:
        """Return (T, 3): year - 2002, month - 1 and hour of each row."""
        return np.array([self.stamps[row] for row in rows], np.int64)


def places_of(shard: ShardRows, field: str, where: str) -> Places:
    """Return which rows of a shard show the same place.

    Args:
        field: of the metadata, the one that names the place; tiles of a scene lie at places of
            their own.
        where: dataset and shard, for messages.

    Raises:
        ValueError: a sample has no such field, or no time; or every place is there once.
    """
    told = [json.loads(text) for text in shard.table["metadata"].to_pylist()]
    keys = shard.table["key"].to_pylist()
    names = [f"{where}, sample {key}" for key in keys]
    stamps = [_stamp(about, name) for about, name in zip(told, names, strict=True)]
    times = [about["time"] for about in told]
    of = [_place(about, field, name) for about, name in zip(told, names, strict=True)]
    rows: dict[Hashable, list[int]] = defaultdict(list)
    for row in sorted(range(len(of)), key=lambda row: (times[row], keys[row])):
        rows[of[row]].append(row)
    if max(map(len, rows.values())) < 2:
        raise ValueError(
            f"{where}: shows no place twice, so a series would repeat one picture. Pictures of a "
            "place must lie in one shard: list them one after another, in smaller scenes or with a "
            "larger --shard-size, and name what they share with data.series."
        )
    return Places(of, dict(rows), stamps)


def _place(about: dict[str, Any], field: str, name: str) -> Hashable:
    if not about.get(field):
        raise ValueError(
            f"{name}: says no {field!r}, which data.series takes for the name of its place; it "
            f"says {', '.join(sorted(about))}. Ingest with a --pattern that has a group "
            f"'{field}', or name another field."
        )
    return str(about[field]), tuple(about.get("tile") or ())


def _stamp(about: dict[str, Any], name: str) -> Stamp:
    text = about.get("time")
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        told = f"says the time {text!r}, which is no date" if text else "says no time"
        raise ValueError(
            f"{name}: {told}; pictures of a series are told when they were taken. Ingest with a "
            "--pattern that has a group 'date' or 'time', such as 20210520 or 2021-05-20T10:20."
        ) from None
    return when.year - FIRST_YEAR, when.month - 1, when.hour
