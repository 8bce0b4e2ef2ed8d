"""T2 on a disk: full, short, read-only, slow, failing to read; clocks that jump.

After each of them the same command gives a clean store, the same bytes as an untouched run.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.faults import disk, scenes
from tests.faults.zygote import Outcome, Zygote


class Bench:
    """A place with raw files, and the tree that an untouched ingest gives."""

    def __init__(self, place: Path, zygote: Zygote) -> None:
        self.place, self.zygote = place, zygote
        self.raw = scenes.make_raw(place / "raw")
        root = self.fresh()
        self.again(root)
        self.wanted = scenes.tree(root)

    def fresh(self) -> Path:
        root = self.place / "store"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        return root

    def again(self, root: Path) -> None:
        """Ingest without faults."""
        assert self.zygote.run(scenes.take_a, root, self.raw).error == ""

    def hurt(self, fault: Any, root: Path, *arguments: Any) -> Outcome:
        return self.zygote.run(fault, root, self.raw, scenes.take_a, *arguments)

    def check(self, root: Path) -> None:
        assert scenes.differences(self.wanted, scenes.tree(root)) == set()
        scenes.check_clean(root)


@pytest.fixture(scope="module")
def bench(zygote: Zygote) -> Iterator[Bench]:
    with TemporaryDirectory(prefix="faults-") as place:
        Path(place).chmod(0o755)
        yield Bench(Path(place), zygote)


def test_short_writes_give_the_same_bytes(bench: Bench) -> None:
    root = bench.fresh()
    assert bench.hurt(disk.with_short_writes, root).error == ""
    bench.check(root)


def test_a_file_that_the_kernel_cuts_is_no_file(bench: Bench) -> None:
    """The shard does not fit: part of it is written, then the system refuses."""
    root = bench.fresh()
    largest = max(path.stat().st_size for path in bench.raw.rglob("*") if path.is_file())
    done = bench.hurt(disk.with_small_files, root, largest + 600)
    assert "StoreError" in done.error and "could not write" in done.error
    assert scenes.temporary_files(root) == []
    bench.again(root)
    bench.check(root)


def test_a_full_file_system_is_named_and_taken_up_again(bench: Bench) -> None:
    """A real one, of 40 KiB; the same command goes on when there is room."""
    root = bench.fresh()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(root)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        done = bench.zygote.run(scenes.take_a, root, bench.raw)
        assert "No space left on device" in done.error
        assert "could not write" in done.error
        assert scenes.temporary_files(root) == []
        subprocess.run(["mount", "-o", "remount,size=10m", str(root)], check=True)
        bench.again(root)
        bench.check(root)
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_a_store_that_may_not_be_written_is_refused_at_once(bench: Bench) -> None:
    root = bench.fresh()
    root.chmod(0o555)
    done = bench.hurt(disk.as_nobody, root)
    assert "this folder cannot be written. Change its owner or mode" in done.error
    assert scenes.tree(root) == {}


def test_a_part_that_may_not_be_written_is_named(bench: Bench) -> None:
    root = bench.fresh()
    (root / "datasets").mkdir(mode=0o555)
    root.chmod(0o777)
    done = bench.hurt(disk.as_nobody, root)
    assert "Permission denied" in done.error
    assert str(root) in done.error
    (root / "datasets").chmod(0o755)
    root.chmod(0o755)
    bench.again(root)
    bench.check(root)


@pytest.mark.parametrize("at", [1, -20])
def test_a_clock_that_jumps_changes_nothing(bench: Bench, at: int) -> None:
    root = bench.fresh()
    assert bench.hurt(disk.with_a_clock_that_jumps, root, at).error == ""
    bench.check(root)


@pytest.mark.parametrize("seconds", [100.0])
def test_slow_storage_is_waited_for(bench: Bench, seconds: float) -> None:
    """G10: no deadline is about how long a call that succeeds took."""
    root = bench.fresh()
    assert bench.hurt(disk.with_slow_calls, root, seconds).error == ""
    bench.check(root)


@pytest.mark.parametrize("large", [False, True])
def test_a_failing_read_of_an_input_is_no_reject(bench: Bench, large: bool) -> None:
    """A disk that errs once must not cost a file: the command fails, and goes on when asked."""
    folder = bench.raw / "a"
    root = bench.fresh()
    reads, _ = bench.hurt(disk.with_a_failing_read, root, 0, folder, large).result
    assert reads > 10
    for at in (2, reads - 2):
        root = bench.fresh()
        done = bench.hurt(disk.with_a_failing_read, root, at, folder, large)
        assert "Input/output error" in done.error, at
        bench.again(root)
        bench.check(root)
