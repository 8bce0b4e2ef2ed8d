"""A derive that is killed ten times leaves the bytes of one that never was (G3)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from storage.fs import open_store
from tests.integration.raw import make_videos
from tests.integration.test_ingest import tree_hash

ROOT = Path(__file__).resolve().parents[2]
KILLS = 10
DERIVE = """
import sys
from pipelines.derive import derive
from pipelines.executors import Executor
from storage.fs import open_store

view = {"kind": "resized_crop", "size": 48}
columns = {
    "codes": {"view": view, "codes": 16},
    "masks": {"draws": 2, "views": 2, "view": view, "size": 48, "mask": {"kind": "mgmae"}},
    "hog": {"view": view, "views": 2},
}
if __name__ == "__main__":
    derive(open_store(sys.argv[1]), "video", columns, Executor(workers=int(sys.argv[2])))
"""


def start(script: Path, store: Path, workers: int) -> subprocess.Popen[bytes]:
    """Start a derive in a session of its own."""
    words = [sys.executable, str(script), str(store), str(workers)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=ROOT, env=env, start_new_session=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [1, 2])
def test_ten_kills_change_no_byte(tmp_path: Path, workers: int) -> None:
    raw = make_videos(tmp_path / "raw", 4)
    store = open_store(tmp_path / "store")
    spec = IngestSpec(modality="video", frames=8, shard_size=8192)
    ingest(store, [str(raw)], "video", spec, Executor())
    script = tmp_path / "derive.py"
    script.write_text(DERIVE)
    whole = shutil.copytree(store.uri, tmp_path / "whole")
    began = time.monotonic()
    assert start(script, whole, workers).wait() == 0
    seconds = time.monotonic() - began
    rng = np.random.default_rng(workers)
    wanted, killed = tree_hash(whole), 0
    fresh = shutil.copytree(store.uri, tmp_path / "fresh")
    begun = shutil.copytree(fresh, tmp_path / "begun")
    while killed < KILLS:
        process = start(script, begun, workers)
        time.sleep(rng.uniform(0.2, 1.0) * seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        elif tree_hash(begun) == wanted:  # it was faster: what was killed before is whole again
            shutil.rmtree(begun)
            shutil.copytree(fresh, begun)
        process.wait()
    assert start(script, begun, workers).wait() == 0
    assert tree_hash(begun) == wanted
