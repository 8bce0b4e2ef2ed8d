"""Worker processes that die: their jobs run again, or the one that kills is named (T7, G10)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.processes import ATTEMPTS, WorkerDiedError, run_in_processes
from tests.faults.jobs import Echo, echo
from tests.faults.zygote import ROOT


def test_the_jobs_of_a_killed_worker_run_again(tmp_path: Path) -> None:
    jobs = [Echo(number, str(tmp_path), deaths=number == 2) for number in range(7)]
    done = sorted(run_in_processes(echo, jobs, 2))
    assert [(index, result) for index, result, _ in done] == [(i, i) for i in range(7)]


def test_a_job_that_kills_its_worker_is_named(tmp_path: Path) -> None:
    jobs = [Echo(0, str(tmp_path)), Echo(1, str(tmp_path), deaths=99)]
    with pytest.raises(WorkerDiedError, match=r"echo, job 1: .* died 3 times.*Echo\(number=1,"):
        list(run_in_processes(echo, jobs, 2))
    assert len(list(tmp_path.glob("1-*"))) in (ATTEMPTS, ATTEMPTS + 1)


def test_jobs_are_taken_as_they_are_begun(tmp_path: Path) -> None:
    taken = []

    def endless() -> Iterator[Echo]:
        for number in range(10**9):
            taken.append(number)
            yield Echo(number, str(tmp_path))

    results = run_in_processes(echo, endless(), 2)
    for ended in range(5):
        next(results)
        assert len(taken) <= ended + 1 + 2 * 2
    results.close()


ORPHANS = """
import sys
from pipelines.processes import run_in_processes
from tests.faults.jobs import Echo, process_id
if __name__ == "__main__":
    list(run_in_processes(process_id, [Echo(i, sys.argv[1], 0, 60.0) for i in range(2)], 2))
"""


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment)
    found: list[int] = []
    while len(found) < 2:
        time.sleep(0.05)
        found = [int(path.name.partition("-")[2]) for path in tmp_path.glob("pid-*")]
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 10
    while any(map(_lives, found)):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.02)


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
