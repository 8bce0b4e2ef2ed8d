"""The store on a disk: whole files, races, crashes at any system call, listings, paths."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from storage import local_files
from storage.fs import Entry, Store, StoreError, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def test_what_is_written_is_read(store: Store) -> None:
    store.write("a/b/c.bin", b"0123456789")
    assert store.read("a/b/c.bin") == b"0123456789"
    assert store.read_range("a/b/c.bin", 3, 4) == b"3456"
    assert store.read_range("a/b/c.bin", 8, 100) == b"89"
    assert store.size("a/b/c.bin") == 10
    assert store.exists("a/b/c.bin")
    assert not store.exists("a/b")
    store.write("a/b/c.bin", b"new")
    assert store.read("a/b/c.bin") == b"new"


def test_missing_files_are_file_not_found(store: Store) -> None:
    for read in (store.read, store.size, lambda path: store.read_range(path, 0, 1)):
        with pytest.raises(FileNotFoundError):
            read("nothing")
    store.delete("nothing")
    store.delete_tree("nothing")
    assert store.list("nothing") == []
    assert store.folders("nothing") == ()


def test_listing_is_sorted_and_hides_temporary_files(store: Store) -> None:
    for path in ("b/2", "b/1", "a.txt", "b/c/3", "b-x/4"):
        store.write(path, b"12")
    (store.local_path("b") or Path()).joinpath(".tmp-left").write_bytes(b"half")
    assert [entry.path for entry in store.list()] == ["a.txt", "b-x/4", "b/1", "b/2", "b/c/3"]
    assert store.list("b/c") == [Entry("b/c/3", 2)]
    assert store.folders() == ("b", "b-x")
    store.delete_tree("b")
    assert [entry.path for entry in store.list()] == ["a.txt", "b-x/4"]


def test_listing_follows_links_but_not_in_circles(store: Store) -> None:
    store.write("a/1", b"x")
    store.write("b/2", b"x")
    root = store.local_path() or Path()
    (root / "a/to_b").symlink_to(root / "b")
    (root / "b/to_a").symlink_to(root / "a")
    (root / "a/dangling").symlink_to(root / "nowhere")
    assert [e.path for e in store.list()] == ["a/1", "a/to_b/2", "b/2", "b/to_a/1"]


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/.", "a\0b", ""]
)
def test_paths_stay_in_the_store(store: Store, path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        store.write(path, b"")
    with pytest.raises(ValueError, match="path"):
        store.delete_tree(path)


def test_a_store_travels_and_does_not_depend_on_the_folder_it_is_used_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("here")
    store.write("a", b"1")
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"1"
    assert Store((tmp_path / "here").as_uri()).read("a") == b"1"


def test_open_store_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="is a file"):
        open_store(tmp_path / "file")
    with pytest.raises(StoreError, match=r"cannot be made .*Use another --store"):
        open_store(tmp_path / "file" / "below")
    with pytest.raises(StoreError, match="there is no store"):
        open_store(tmp_path / "nothing", writable=False)
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(StoreError, match=r"are not supported.*Use a folder"):
        open_store("nonsense://x/y")
    with pytest.raises(StoreError, match="no option colour"):
        open_store("s3://bucket/x?colour=red")
    with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID") as caught:
        open_store("s3://me:secret@bucket/x")
    assert "secret" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreError, match=r"cannot be written\. Change its owner"):
        open_store(tmp_path)
    assert open_store(tmp_path, writable=False)


def test_put_if_absent_keeps_the_first(store: Store) -> None:
    assert store.put_if_absent("d/x", b"first")
    assert not store.put_if_absent("d/x", b"second")
    assert store.read("d/x") == b"first"
    assert os.listdir(store.local_path("d") or "") == ["x"]


def _race(arguments: tuple[str, int]) -> list[int]:
    uri, writer = arguments
    store = Store(uri)
    return [i for i in range(60) if store.put_if_absent(f"race/{i}", b"%d" % writer)]


def test_one_of_several_processes_wins_each_race(store: Store) -> None:
    with get_context("fork").Pool(3) as pool:
        won = pool.map(_race, [(store.uri, writer) for writer in range(3)], chunksize=1)
    assert sorted(i for wins in won for i in wins) == list(range(60))
    for writer, wins in enumerate(won):
        assert all(store.read(f"race/{i}") == b"%d" % writer for i in wins)
    assert len(os.listdir(store.local_path("race") or "")) == 60


def test_a_lost_answer_to_a_link_still_wins(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def link_then_fail(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "asked twice")

    monkeypatch.setattr(os, "link", link_then_fail)
    assert store.put_if_absent("x", b"1")


def test_without_hard_links_an_exclusive_rename_decides(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    assert store.put_if_absent("x", b"1")
    assert not store.put_if_absent("x", b"2")
    assert store.read("x") == b"1"
    monkeypatch.setattr(local_files.ctypes, "CDLL", lambda *_, **__: object())
    with pytest.raises(StoreError, match="neither hard links nor exclusive renames"):
        store.put_if_absent("y", b"1")
    assert [entry.path for entry in store.list()] == ["x"]


CRASH = """
import os, sys
from storage.fs import Store
at, how, uri, what = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
calls = 0
def torture(name):
    real = getattr(os, name)
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == at:
            if how == "die":
                os._exit(9)
            if how == "die-after":
                real(*arguments, **options)
                os._exit(9)
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)
    setattr(os, name, call)
for name in ("open", "write", "fsync", "replace", "link", "unlink", "mkdir", "close"):
    torture(name)
try:
    getattr(Store(uri), what)("new/folder/x", b"second " * 1000)
except OSError as error:
    sys.exit(3)
sys.exit(0 if calls < at else 4)
"""


@pytest.mark.parametrize("what", ["write", "put_if_absent"])
@pytest.mark.parametrize("how", ["die", "die-after", "fail"])
def test_killed_or_failing_at_any_call_the_file_is_whole_or_absent(
    tmp_path: Path, what: str, how: str
) -> None:
    """G3: the file is absent or complete; running again completes it and leaves nothing else."""
    for at in range(1, 40):
        store = open_store(tmp_path / f"{at}")
        command = [sys.executable, "-c", CRASH, str(at), how, store.uri, what]
        code = _run_in_fork(command)
        there = store.exists("new/folder/x")
        if there:
            assert store.read("new/folder/x") == b"second " * 1000
        assert [e.path for e in store.list()] == (["new/folder/x"] if there else [])
        getattr(store, what)("new/folder/x", b"second " * 1000)
        store.delete_abandoned()
        left = [p.name for p in Path(store.uri).rglob("*") if p.is_file()]
        assert left == ["x"]
        if code == 0:
            assert at > 8
            return
    pytest.fail("the torture never reached the end")


def _run_in_fork(command: list[str]) -> int:
    """Run `python -c code arguments` in a fork of this process: a fresh Python takes a second."""
    child = os.fork()
    if child == 0:
        try:
            sys.argv = ["-c", *command[3:]]
            exec(compile(command[2], "crash", "exec"), {"__name__": "__main__"})
        except SystemExit as done:
            os._exit(int(done.code or 0))
        finally:
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(("what", "names"), [("write", "replace"), ("put_if_absent", "link")])
def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return(
    store: Store, monkeypatch: pytest.MonkeyPatch, what: str, names: str
) -> None:
    calls: list[str] = []
    for name in ("write", "fsync", "replace", "link"):
        real = getattr(os, name)

        def call(*arguments: Any, name: str = name, real: Any = real) -> Any:
            calls.append(name)
            return real(*arguments)

        monkeypatch.setattr(os, name, call)
    getattr(store, what)("x", b"1")
    assert calls == ["write", "fsync", names, "fsync"]


def test_short_writes_are_completed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:7]))
    store.write("x", bytes(range(100)))
    assert store.read("x") == bytes(range(100))


def test_short_reads_are_completed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("x", bytes(range(100)))
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda handle, size, at: pread(handle, min(size, 7), at))
    assert store.read_range("x", 10, 50) == bytes(range(10, 60))


def test_abandoned_files_go_and_those_being_written_stay(store: Store) -> None:
    folder = store.local_path("p") or Path()
    folder.mkdir()
    (folder / ".tmp-dead").write_bytes(b"half")
    code = "\n".join(
        (
            "import sys, time; from pathlib import Path",
            "from storage.local_files import _temporary",
            "with _temporary(Path(sys.argv[1]) / 'x', b'12'):",
            "    print('ready', flush=True); time.sleep(60)",
        )
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert store.delete_abandoned() == 1
        assert len(os.listdir(folder)) == 1
    finally:
        writer.kill()
        writer.wait()
    assert store.delete_abandoned("p") == 1
    assert os.listdir(folder) == []


def test_a_temporary_file_cleaned_away_too_early_is_written_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, failures = os.replace, [1, 1]

    def vanish(source: Path, target: Path) -> None:
        if failures:
            failures.pop()
            os.unlink(source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", vanish)
    store.write("x", b"1")
    assert store.read("x") == b"1"


def test_a_full_disk_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(
        StoreError, match=r"could not write a/x .*No space left.*free space"
    ) as caught:
        store.write("a/x", b"1")
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert list(Path(store.uri).rglob("*")) == [Path(store.uri) / "a"]


def test_listing_while_others_write_and_delete(store: Store) -> None:
    child = os.fork()
    if child == 0:
        for i in range(300):
            store.write(f"d{i % 7}/f{i % 13}", b"x" * 10)
            if i % 5 == 0:
                store.delete_tree(f"d{i % 3}")
        os._exit(0)
    lists = 0
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        assert all(entry.size == 10 for entry in store.list())
        lists += 1
    assert lists > 3


def test_a_store_of_neither_disk_nor_objects_writes_by_rename() -> None:
    store = open_store("mock:///root")
    store.write("a/b", b"12")
    store.write("a/b", b"345")
    assert store.put_if_absent("a/c", b"1")
    assert not store.put_if_absent("a/c", b"2")
    assert [(e.path, e.size) for e in store.list()] == [("a/b", 3), ("a/c", 1)]
    assert store.folders() == ("a",)
    assert store.local_path("a/b") is None
    store.delete("a/b")
    store.delete_tree("a")
    assert store.list() == []


def test_a_relative_store_is_below_where_the_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        Store("raw").write("file", name.encode())
    assert (tmp_path / "here/raw/file").read_bytes() == b"here"
    assert Store("raw").read("file") == b"there"
