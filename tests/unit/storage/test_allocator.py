"""Memory that a process holds beside its data."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CODE = """
import json
import storage.allocator
import pyarrow.parquet

def mapped():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))

before = mapped()
storage.allocator.give_back_code()
after = mapped()
values = pyarrow.array([3, 4]).to_pylist()
pool = pyarrow.default_memory_pool().backend_name
print(json.dumps([before, after, values, pool]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is given back")
def test_code_that_ran_once_is_given_back_and_still_runs() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, after, values, pool = json.loads(done.stdout)
    assert after < 0.7 * before
    assert values == [3, 4]
    assert pool == "system"
