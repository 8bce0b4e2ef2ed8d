"""From raw files to units: the files that together make one sample, or one source of samples.

An image, a video or a multi-page raster is a unit of one file. With a pattern whose named groups
hold `channel` (or `band`), the files that agree in all other groups are one unit, a channel each.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.raw import RawFile

CHANNEL_GROUPS = ("channel", "band")


@dataclass(frozen=True, slots=True)
class Unit:
    """Raw files that belong together."""

    files: tuple[RawFile, ...]
    channels: tuple[str, ...] = ()
    "the channel that each file holds; empty for a unit of one file"
    fields: dict[str, str] = field(default_factory=dict)
    "what the pattern's other named groups say: plate, well, site, date ..."


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row of the listing that fits no unit, and why."""

    row: int
    reason_class: str
    detail: str


@dataclass(frozen=True, slots=True)
class Units:
    """Units as rows of the listing."""

    rows: NDArray[np.int64]
    "(units, files of a unit)"
    channels: tuple[str, ...] = ()
    fields: tuple[dict[str, str], ...] = ()
    "of each unit; empty where there is no pattern"

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: NDArray[np.int64]) -> Units:
        """Return some of the units."""
        fields = tuple(self.fields[i] for i in places) if self.fields else ()
        return Units(self.rows[places], self.channels, fields)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a user's pattern.

    Raises:
        ValueError: not a regular expression.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"--pattern {pattern!r}: not a regular expression ({error}). "
            r"Example: '(?P<well>[A-P]\d\d)_(?P<site>\d)_(?P<channel>\w+)\.tif'."
        ) from error


def group_paths(
    paths: Sequence[str], rows: NDArray[np.int64], pattern: str, expected: Sequence[str] = ()
) -> tuple[Units, list[Refusal]]:
    """Group raw files into units, in the order of their first file.

    Args:
        paths: the path of each file below its source, which the pattern is searched in.
        rows: the file's row in the listing.
        pattern: regular expression with named groups.
        expected: channels that each unit must have; by default all channels seen under the pattern.

    Returns:
        The units, and the files that match no pattern or belong to a unit that lacks a channel.
    """
    compiled = compile_pattern(pattern)
    refused = []
    units: dict[tuple[tuple[str, str], ...], dict[str, int]] = defaultdict(dict)
    for place, path in enumerate(paths):
        match = compiled.search(path)
        if match is None:
            detail = f"{path} does not match --pattern {pattern}"
            refused.append(Refusal(int(rows[place]), "unrecognised_format", detail))
            continue
        fields = {name: text or "" for name, text in match.groupdict().items()}
        channel = next((fields.pop(name) for name in CHANNEL_GROUPS if name in fields), "")
        identity = tuple(sorted(fields.items())) or (("path", path),)
        if channel in units[identity]:
            other = paths[units[identity][channel]]
            detail = f"says it is channel {channel!r} of {dict(identity)}, which {other} is already"
            refused.append(Refusal(int(rows[place]), "shape_mismatch", detail))
        else:
            units[identity][channel] = place
    complete, lacking = _check_channels(units, rows, tuple(expected))
    return complete, refused + lacking


def _check_channels(
    units: dict[tuple[tuple[str, str], ...], dict[str, int]],
    rows: NDArray[np.int64],
    expected: tuple[str, ...],
) -> tuple[Units, list[Refusal]]:
    """Separate the units that have every channel from those that lack one."""
    if not expected:
        expected = tuple(sorted({channel for unit in units.values() for channel in unit}))
    complete, fields, refused = [], [], []
    for identity, unit in units.items():
        missing = [channel for channel in expected if channel not in unit]
        if missing:
            detail = f"{dict(identity)} lacks channel {', '.join(missing)} of {', '.join(expected)}"
            refused += [
                Refusal(int(rows[place]), "incomplete_channels", detail) for place in unit.values()
            ]
            continue
        for name in unit.keys() - set(expected):
            detail = f"channel {name} is not among {', '.join(expected)}"
            refused.append(Refusal(int(rows[unit[name]]), "shape_mismatch", detail))
        complete.append([rows[unit[name]] for name in expected])
        fields.append(dict(identity))
    named = expected if expected != ("",) else ()
    table = np.array(complete, np.int64).reshape(len(complete), max(1, len(expected)))
    return Units(table, named, tuple(fields)), sorted(refused, key=lambda r: r.row)
