"""From raw files to units: the files that together make one sample, or one source of samples.

An image, a video or a multi-page raster is a unit of one file. With a pattern whose named groups
hold
`channel` (or `band`), the files that agree in all other groups are one unit, a channel each.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipelines.sources import RawFile

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
class Reject:
    """A raw file that was refused, and why."""

    uri: str
    reason_class: str
    detail: str
    content_hash: str = ""
    size: int = 0


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


def group_files(
    files: Sequence[RawFile], pattern: str = "", expected: Sequence[str] = ()
) -> tuple[list[Unit], list[Reject]]:
    """Group raw files into units, in the order of their first file.

    Args:
        files: what the sources hold.
        pattern: regular expression with named groups, searched in each file's path below its
            source.
        expected: channels that each unit must have; by default all channels seen under the pattern.

    Returns:
        The units, and the files that match no pattern or belong to a unit that lacks a channel.
    """
    if not pattern:
        return [Unit((file,)) for file in files], []
    compiled = compile_pattern(pattern)
    rejects = []
    units: dict[tuple[tuple[str, str], ...], dict[str, RawFile]] = defaultdict(dict)
    for file in files:
        match = compiled.search(file.path)
        if match is None:
            detail = f"{file.path} does not match --pattern {pattern}"
            rejects.append(Reject(file.uri, "unrecognised_format", detail, size=file.size))
            continue
        fields = {name: text or "" for name, text in match.groupdict().items()}
        channel = next((fields.pop(name) for name in CHANNEL_GROUPS if name in fields), "")
        identity = tuple(sorted(fields.items())) or (("path", file.path),)
        if channel in units[identity]:
            other = units[identity][channel].uri
            detail = f"says it is channel {channel!r} of {dict(identity)}, which {other} is already"
            rejects.append(Reject(file.uri, "shape_mismatch", detail, size=file.size))
        else:
            units[identity][channel] = file
    complete, lacking = _check_channels(units, tuple(expected))
    return complete, rejects + lacking


def _check_channels(
    units: dict[tuple[tuple[str, str], ...], dict[str, RawFile]], expected: tuple[str, ...]
) -> tuple[list[Unit], list[Reject]]:
    """Separate the units that have every channel from those that lack one."""
    if not expected:
        expected = tuple(sorted({channel for unit in units.values() for channel in unit}))
    complete, rejects = [], []
    for identity, unit in units.items():
        missing = [channel for channel in expected if channel not in unit]
        if missing:
            detail = f"{dict(identity)} lacks channel {', '.join(missing)} of {', '.join(expected)}"
            rejects += [
                Reject(file.uri, "incomplete_channels", detail, size=file.size)
                for file in unit.values()
            ]
            continue
        extra = [channel for channel in unit if channel not in expected]
        rejects += [
            Reject(unit[name].uri, "shape_mismatch", f"channel {name} is not among {expected}")
            for name in extra
        ]
        named = expected if expected != ("",) else ()
        complete.append(Unit(tuple(unit[name] for name in expected), named, dict(identity)))
    return complete, rejects
