"""Memory that a step freed serves the next one."""

from __future__ import annotations

import subprocess
import sys

import pytest

_STEPS = """
import resource, sys
from training.allocator import keep_memory
if sys.argv[1] == "kept" and not keep_memory():
    raise SystemExit(3)
import torch
torch.set_num_threads(1)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    for _ in range(4):
        torch.ones(1 << 24)
step()
before = faults()
step()
print(faults() - before)
"""


def faults(kind: str) -> int:
    """Return how many pages a second step had to be given."""
    done = subprocess.run(
        [sys.executable, "-c", _STEPS, kind], capture_output=True, text=True, check=False
    )
    if done.returncode == 3:
        pytest.skip("malloc is not glibc's here")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_second_step_needs_no_new_pages() -> None:
    """Four times 64 MiB are 65,536 pages; few of them are new to a process that kept its own."""
    kept, given_back = faults("kept"), faults("plain")
    assert 10 * kept < given_back, (kept, given_back)
