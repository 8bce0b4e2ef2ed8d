"""T11: ten thousand batches of all datasets, under a limit of address space: memory stays level."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.fs import Store
from tests.integration.feed_sets import make_store

BATCHES, WARM = 10_000, 2_000
GROWTH = 4
"MiB from batch WARM on, of any process; what allocators round to, and not a slope"
ROOM = 64
"MiB of addresses that a process may take from then on"
LONG = """
import json, resource, sys
import psutil
from storage.fs import Store
from tests.integration.feed_sets import open_way

if __name__ == "__main__":
    store, workers, batches, warm, room = sys.argv[1], *map(int, sys.argv[2:])
    resident = []
    feed = open_way(Store(store), "mixture", stop=batches, workers=workers)
    for number, batch in enumerate(feed):
        if number in (warm, batches - 10):
            everyone = [psutil.Process(), *psutil.Process().children(recursive=True)]
            resident.append({p.pid: p.memory_info().rss / 2**20 for p in everyone})
        if number == warm:
            for process in everyone:
                size = process.memory_info().vms + room * 2**20
                resource.prlimit(process.pid, resource.RLIMIT_AS, (size, size))
    assert number == batches - 1
    assert all(proof.replaced == 0 for proof in feed.proofs)
    print(json.dumps(resident))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("long"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_does_not_grow_with_batches(workers: int, store: Store, tmp_path: Path) -> None:
    script = tmp_path / "long.py"
    script.write_text(LONG)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(script), store.uri, *map(str, (workers, BATCHES, WARM, ROOM))],
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    before, after = (
        {int(pid): size for pid, size in found.items()} for found in json.loads(done.stdout)
    )
    assert before.keys() == after.keys(), "a worker died"
    assert len(before) >= 1 + workers
    assert max(after[pid] - before[pid] for pid in before) < GROWTH
