"""T13: promises of storage are broken on purpose, one at a time; a named fast test must fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.zygote import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
FOLDERS = ("storage", "preprocessing", "pipelines", "training", "flows", "recipes", "tests")
TORTURE = "tests/faults/test_torture.py::test_interrupted_at_some_calls_the_store_ends_the_same"
MEETING = "tests/faults/test_races.py::test_two_that_meet_at_some_calls_end_as_one_after_the_other"
FILES = "tests/unit/storage/test_fs.py"
ORDER = f"{FILES}::test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return"
POWER = "tests/faults/test_torture.py::test_what_was_told_as_done_outlasts_a_power_cut"


@dataclass(frozen=True, slots=True)
class Mutation:
    """A change of the source, and the test that it must not survive."""

    path: str
    old: str
    new: str
    test: str


MUTATIONS = {
    "bytes are not synced": Mutation(
        "storage/local_files.py",
        "        os.fsync(handle)\n        yield temporary\n",
        "        yield temporary\n",
        ORDER,
    ),
    "the name comes before the sync of the bytes": Mutation(
        "storage/local_files.py",
        "        os.fsync(handle)\n        yield temporary\n",
        "        yield temporary\n        os.fsync(handle)\n",
        ORDER,
    ),
    "bytes are not synced, seen by a power cut": Mutation(
        "storage/local_files.py",
        "        os.fsync(handle)\n        yield temporary\n",
        "        yield temporary\n",
        f"{POWER}[first-names]",
    ),
    "names are not synced, seen by a power cut": Mutation(
        "storage/local_files.py",
        "os.replace(temporary, target)\n                sync_folder(target.parent)\n",
        "os.replace(temporary, target)\n",
        f"{POWER}[first-power]",
    ),
    "a temporary name is used again": Mutation(
        "storage/local_files.py",
        "{TEMPORARY}{uuid.uuid4().hex}",
        "{TEMPORARY}same",
        f"{FILES}::test_one_of_several_processes_wins_each_race",
    ),
    "a file is written in its place": Mutation(
        "storage/local_files.py",
        "def write_file(target: Path, data: bytes | mmap) -> None:\n",
        "def write_file(target: Path, data: bytes | mmap) -> None:\n"
        "    make_folder(target.parent)\n"
        "    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)\n"
        "    _write_all(handle, data)\n    return os.close(handle)\n",
        f"{FILES}::test_killed_or_failing_at_any_call_the_file_is_whole_or_absent[die-write]",
    ),
    "the second commit replaces the first": Mutation(
        "storage/local_files.py",
        "        os.link(temporary, target)\n",
        "        os.replace(temporary, target)\n",
        "tests/unit/storage/test_snapshots.py::test_no_commit_of_two_processes_is_lost",
    ),
    "checksums are not compared": Mutation(
        "storage/shards.py",
        "xxh3_64_intdigest(data) == expected and len(data) == size",
        "len(data) == size",
        "tests/unit/storage/test_shards.py::test_reader_names_dataset_shard_and_sample",
    ),
    "a snapshot is not compared with its fingerprint": Mutation(
        "storage/snapshots.py",
        "snapshot.to_json() == data",
        "True",
        "tests/unit/storage/test_snapshots.py::test_any_changed_byte_of_a_snapshot_is_found",
    ),
    "the record comes before its shard": Mutation(
        "pipelines/chunks.py",
        '        self.store.write(f"{self.job.part}/{name}", data)\n',
        "        self.store.write(record_path(self.job.part, self.job.chunk), b'{}')\n"
        '        self.store.write(f"{self.job.part}/{name}", data)\n',
        f"{TORTURE}[first-kill]",
    ),
    "the snapshot comes before the manifest": Mutation(
        "pipelines/ingest.py",
        "        snapshot = None if nothing else _commit(store, plan, entry, books)\n",
        '        table = store.read(f"{part}/manifest.parquet")\n'
        '        store.delete(f"{part}/manifest.parquet")\n'
        "        snapshot = None if nothing else _commit(store, plan, entry, books)\n"
        '        store.write(f"{part}/manifest.parquet", table)\n',
        f"{TORTURE}[first-kill]",
    ),
    "what killed writers left stays": Mutation(
        "pipelines/ingest.py",
        "        store.delete_abandoned(part)\n",
        "",
        f"{TORTURE}[first-kill]",
    ),
    "an ingest does not look at what came meanwhile": Mutation(
        "pipelines/ingest.py",
        '    if newest.settings["heldout_below"] != str(plan.heldout_below):\n',
        "    return True\n    if newest is None:\n",
        f"{MEETING}[ingests that overlap]",
    ),
    "gc does not ask who writes": Mutation(
        "pipelines/gc.py",
        "            if not free:\n",
        "            if False:\n",
        f"{MEETING}[gc meets an ingest]",
    ),
    "jobs of a dead worker are dropped": Mutation(
        "pipelines/processes.py",
        "        yield from _run_alone(",
        "        yield from () and _run_alone(",
        "tests/faults/test_processes.py::test_the_jobs_of_a_killed_worker_run_again",
    ),
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a copy of the source."""
    place = tmp_path_factory.mktemp("mutants")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    yield place
    shutil.rmtree(place)


def passes(checkout: Path, test: str) -> bool:
    """Run one test of a checkout."""
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-p", "no:cacheprovider", test]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode == 0


def test_the_named_tests_pass_without_a_mutation(checkout: Path) -> None:
    assert [
        test for test in {m.test for m in MUTATIONS.values()} if not passes(checkout, test)
    ] == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_promise_is_noticed(checkout: Path, name: str) -> None:
    mutation = MUTATIONS[name]
    path = checkout / mutation.path
    source = path.read_text()
    assert source.count(mutation.old) == 1, f"{mutation.path} changed; renew the mutation"
    path.write_text(source.replace(mutation.old, mutation.new))
    try:
        assert not passes(checkout, mutation.test), f"{mutation.test} does not notice"
    finally:
        path.write_text(source)
