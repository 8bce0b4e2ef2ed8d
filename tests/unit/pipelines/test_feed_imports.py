"""What a feed of pictures loads: each library more is memory of every process that trains."""

from __future__ import annotations

import json
import subprocess
import sys

UNNEEDED = ("av", "kornia", "numba", "pandas", "pyarrow.compute", "pyarrow.dataset", "ray", "scipy")
CODE = "import sys, json, pipelines.feed; print(json.dumps(sorted(sys.modules)))"


def test_pictures_need_no_codecs_of_clips_and_no_kernels() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert "torch" in loaded
    assert not set(UNNEEDED) & set(loaded)
