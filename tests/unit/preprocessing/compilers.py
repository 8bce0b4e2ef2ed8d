"""What of this machine decides whether `preprocessing/_jpeg.c` can be compiled and run."""

from __future__ import annotations

import shutil
from pathlib import Path

COMPILER = shutil.which("gcc") or shutil.which("clang")


def has_avx2() -> bool:
    """Say whether this is a processor that the compiled decoder runs on."""
    told = Path("/proc/cpuinfo")
    return told.exists() and {"avx2", "bmi2", "fma"} <= set(told.read_text().split())
