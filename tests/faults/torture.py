"""A store under torture: a process is killed, loses its power, or is refused at its k-th call.

The wrapper counts the calls by which a process changes files below one folder. Reading changes
nothing, so a kill between two such calls leaves what a kill at the second one leaves; "killed after
call k" is "killed before call k + 1". The real fsync is left out: what it promises is simulated,
and a sweep over all calls then takes seconds.

A power cut keeps what was synced. Of the rest two worst cases are built, between which every real
disk lies: `power` loses all names and bytes that were not synced; `names` keeps all names, and
files that were not synced are empty.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KILLS = ("kill", "power", "names")
FAILURES = ("EIO", "ENOSPC", "EROFS")
_BY_HANDLE = ("write", "pwrite", "fsync", "ftruncate")
_BY_PATH = ("replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir")
_GROWS = {"open", "write", "pwrite", "replace", "rename", "link", "mkdir"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_REAL = {name: getattr(os, name) for name in (*_BY_HANDLE, *_BY_PATH, "open")}


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at which call; number 0 happens never."""

    at: int = 0
    how: str = "kill"
    "kill, power, names; EIO (this call fails), ENOSPC and EROFS (from here on all fail)"


@dataclass(slots=True)
class Watch:
    """Counts the changing calls below a folder, and makes one of them go wrong."""

    root: Path
    fault: Fault = Fault()
    cut_at_end: bool = False
    "let the power go when the work is done"
    at_call: Callable[[int, str], None] | None = None
    "called with (number, name) before each call, to look or to let others run meanwhile"
    calls: int = 0
    trace: list[str] = field(default_factory=list)
    "the names of the calls"
    written: int = 0
    disk: Disk | None = None
    _patched: list[tuple[Any, str, Any]] = field(default_factory=list)

    def begin(self) -> None:
        """Put the wrappers in place."""
        if self.fault.how in ("power", "names"):
            self.disk = Disk(self.root)
        for name in _BY_HANDLE:
            self._patch(os, name, self._by_handle(name))
        for name in _BY_PATH:
            self._patch(os, name, self._by_path(name))
        self._patch(os, "open", self._open)
        self._patch(builtins, "open", self._refuse_hidden_writes(builtins.open))
        self._patch(io, "open", self._refuse_hidden_writes(io.open))

    def end(self) -> None:
        """Take the wrappers away."""
        if self.cut_at_end and self.disk is not None:
            self._die()
        while self._patched:
            where, name, real = self._patched.pop()
            setattr(where, name, real)

    def _patch(self, where: Any, name: str, wrapper: Any) -> None:
        self._patched.append((where, name, getattr(where, name)))
        setattr(where, name, wrapper)

    def _inside(self, path: str) -> bool:
        return Path(path) == self.root or str(path).startswith(f"{self.root}/")

    def _before(self, name: str) -> None:
        """Count a call; kill or fail where the fault says so."""
        self.calls += 1
        self.trace.append(name)
        if self.at_call is not None:
            self.at_call(self.calls, name)
        at, how = self.fault.at, self.fault.how
        if not at or self.calls < at:
            return
        if how in KILLS:
            self._die()
        if (how == "EIO" and self.calls == at) or (how != "EIO" and name in _GROWS):
            number = getattr(errno, how)
            raise OSError(number, os.strerror(number))
        if how == "EROFS":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def _die(self) -> None:
        """Leave what a kill, or a power cut, leaves."""
        if self.disk is not None:
            self.disk.cut(keep_names=self.fault.how == "names")
        os.kill(os.getpid(), signal.SIGKILL)

    def _by_handle(self, name: str) -> Callable[..., Any]:
        def call(handle: int, *arguments: Any) -> Any:
            path = _path_of(handle)
            if not self._inside(path):
                return _REAL[name](handle, *arguments)
            self._before(name)
            if name == "fsync":
                return self.disk.synced(handle, path) if self.disk else None
            done = _REAL[name](handle, *arguments)
            self.written += done if name in ("write", "pwrite") else 0
            if self.disk:
                self.disk.dirty.add(os.fstat(handle).st_ino)
            return done

        return call

    def _by_path(self, name: str) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            full = _absolute(path, options.get("dir_fd"))
            if not self._inside(full):
                return _REAL[name](path, *arguments, **options)
            self._before(name)
            if self.disk:
                self.disk.changing(name, full, *arguments)
            return _REAL[name](path, *arguments, **options)

        return call

    def _open(self, path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        full = _absolute(path, options.get("dir_fd"))
        changes = flags & _WRITING and not isinstance(path, int) and self._inside(full)
        if changes:
            self._before("open")
        handle = int(_REAL["open"](path, flags, *arguments, **options))
        if changes and self.disk and flags & (os.O_CREAT | os.O_TRUNC):
            self.disk.dirty.add(os.fstat(handle).st_ino)
        return handle

    def _refuse_hidden_writes(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Writes of a buffered file would pass the count: the store must not make them."""

        def call(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            path = _path_of(file) if isinstance(file, int) else str(file)
            if set(mode) & set("wax+") and self._inside(path):
                raise AssertionError(f"{path}: written past os.write, where torture cannot see it")
            return real(file, mode, *arguments, **options)

        return call


def _path_of(handle: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{handle}")
    except OSError:
        return ""


def _absolute(path: Any, folder: int | None) -> str:
    if isinstance(path, int):
        return _path_of(path)
    name = os.fsdecode(path)
    return f"{_path_of(folder)}/{name}" if folder is not None else os.path.abspath(name)


class Disk:
    """What of a folder would be left after a power cut: names and bytes that were synced."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dirty: set[int] = set()
        "inodes with bytes that were not synced"
        self.names: dict[str, dict[str, int]] = {}
        "for each folder the names (and inodes) that were synced; at first all that are there"
        self.kept: dict[int, bytes] = {}
        "bytes of files that lost a name, which a cut may bring back"
        for folder, _, _ in os.walk(root):
            self.names[folder] = _entries(folder)
        self.hold: list[int] = []

    def synced(self, handle: int, path: str) -> None:
        """A file's bytes, or a folder's names, are on the disk now."""
        if os.path.isdir(path):
            self.names[path] = _entries(path)
        else:
            self.dirty.discard(os.fstat(handle).st_ino)

    def changing(self, name: str, path: str, *arguments: Any) -> None:
        """A name is about to change: keep what it stands for now."""
        victims = [path] if name in ("unlink", "remove") else []
        if name in ("replace", "rename"):
            assert not os.path.isdir(path), "a folder that is renamed is not simulated"
            victims = [os.fspath(arguments[0])]
        if name == "mkdir":
            self.names.setdefault(path, {})
        for victim in victims:
            if os.path.isfile(victim) and not os.path.islink(victim):
                handle = _REAL["open"](victim, os.O_RDONLY)
                self.hold.append(handle)  # so that no new file gets its inode
                status = os.fstat(handle)
                self.kept[status.st_ino] = os.pread(handle, status.st_size, 0)

    def cut(self, *, keep_names: bool) -> None:
        """Make the folder what a power cut leaves."""
        if keep_names:
            for folder, _, names in os.walk(self.root):
                for path in (os.path.join(folder, name) for name in names):
                    if os.stat(path).st_ino in self.dirty:
                        os.truncate(path, 0)
            return
        content = dict(self.kept)
        for folder, _, names in os.walk(self.root):
            for path in (Path(folder) / name for name in names):
                content[path.stat().st_ino] = path.read_bytes()
        content.update(dict.fromkeys(self.dirty, b""))
        os.unlink, os.rmdir, os.open = _REAL["unlink"], _REAL["rmdir"], _REAL["open"]
        builtins.open = io.open = _REAL_OPEN  # type: ignore[assignment]
        os.mkdir = _REAL["mkdir"]
        for child in list(self.root.iterdir()):
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        self._build(str(self.root), content)

    def _build(self, folder: str, content: dict[int, bytes]) -> None:
        for name, inode in self.names.get(folder, {}).items():
            path = os.path.join(folder, name)
            if path in self.names:
                os.mkdir(path)
                self._build(path, content)
            else:
                Path(path).write_bytes(content[inode])


_REAL_OPEN = io.open


def _entries(folder: str) -> dict[str, int]:
    with os.scandir(folder) as entries:
        return {entry.name: entry.inode() for entry in entries}
