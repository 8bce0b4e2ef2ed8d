"""What `headrace doctor` looks at, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

OK, NOTE, FAULT = "ok", "note", "fault"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    "what was looked at, in a word that stays: packages, decoders, gpu, memory, …"
    level: str
    "ok, note (nothing stops working) or fault (something needs mending)"
    found: str
    fix: str = ""
    "what to do about it; empty where nothing needs doing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """What a doctor is asked about."""

    store: str
    ray_address: str = ""
    workers: int = 1


Check = Callable[[Examined], Iterator[Finding]]


def fine(check: str, found: str) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding(check=check, level=OK, found=found)


def note(check: str, found: str, fix: str) -> Finding:
    """Return a finding that stops nothing now."""
    return Finding(check=check, level=NOTE, found=found, fix=fix)


def fault(check: str, found: str, fix: str) -> Finding:
    """Return a finding that needs mending."""
    return Finding(check=check, level=FAULT, found=found, fix=fix)
