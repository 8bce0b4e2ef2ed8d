"""What a command prints may be cut short by who reads it, as `headrace ls --json | head` does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LONG = """
from flows.options import answer
answer({'rows': 'x' * 1_000_000}, True, '')
print('after')
"""


def test_a_reader_that_goes_early_is_no_error() -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", LONG], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert writer.stdout is not None and writer.stderr is not None
    assert writer.stdout.read(9) == b'{"rows": '
    writer.stdout.close()
    assert writer.stderr.read() == b""
    assert writer.wait(60) == 0
