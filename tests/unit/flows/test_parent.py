"""Processes end with the one that started them, even where that one is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[3]
CHILD = "from flows.parent import end_with_parent; end_with_parent(); import time; time.sleep(60)"
PARENT = f"""
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", {CHILD!r}]).pid, flush=True)
time.sleep(60)
"""


def test_a_child_ends_soon_after_its_parent_was_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.7)
    assert child.is_running() and parent.poll() is None
    parent.kill()
    parent.communicate()
    child.wait(timeout=15)


def test_a_child_whose_parent_ended_before_it_looked_ends_too() -> None:
    code = CHILD.replace("end_with_parent()", "end_with_parent(1 << 30)")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=15).returncode == -15
