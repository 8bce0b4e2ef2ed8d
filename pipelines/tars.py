"""The members of users' tars: each is an input of the books, and a tar that was cut says so.

Python's `tarfile` ends silently on most truncations, so the end of the last member is compared with
the end of the file.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from pipelines.raw import PACKED_ENDINGS, unpacked
from preprocessing.source import Source
from storage.fs import Store

TAR_ENDINGS = (".tar", *PACKED_ENDINGS)
_BLOCK = 512


def list_tar(store: Store, name: str) -> Iterator[dict[str, Any]]:
    """Yield member, offset, size and problem of each member that is not a folder; a last row
    without a member tells that the tar itself is damaged.
    """
    file: IO[bytes]
    if name.lower().endswith(PACKED_ENDINGS):
        file = unpacked(store, name)
        size = file.seek(0, 2)
        file.seek(0)
    else:
        size = store.size(name)
        file = Source(size, lambda offset, count: store.read_range(name, offset, count)).file()
    seen: Counter[str] = Counter()
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in _members(tar):
                if not info.isdir():
                    yield _row(info, size, seen)
            damage = _damage_at(file, tar.offset, size)
    except tarfile.TarError as error:
        damage = f"not a whole tar ({error})"
    except (ValueError, OverflowError, EOFError) as error:
        damage = f"a header is damaged ({error})"
    if damage:
        yield {"member": "", "size": size, "problem": f"truncated: {damage}"}


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (info := tar.next()) is not None:
        tar.members = []  # one million members would stay in memory
        yield info


def _row(info: tarfile.TarInfo, size: int, seen: Counter[str]) -> dict[str, Any]:
    name = str(PurePosixPath(info.name)) or "."
    seen[name] += 1
    member = f"{name}#{seen[name]}" if seen[name] > 1 else name
    problem = ""
    if info.islnk() or info.issym():
        problem = f"unrecognised_format: a link to {info.linkname!r}; only plain files are taken"
    elif not info.isfile() or info.issparse():
        kind = "a sparse file" if info.issparse() else "a device or pipe"
        problem = f"unrecognised_format: {kind}; only plain files are taken"
    elif info.offset_data + info.size > size:
        problem = f"truncated: the tar ends {info.offset_data + info.size - size} bytes too early"
    return {"member": member, "offset": info.offset_data, "size": info.size, "problem": problem}


def _damage_at(file: IO[bytes], end: int, size: int) -> str:
    """Say what is wrong behind the last member: its end marker is zeros, and nothing follows."""
    file.seek(end)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        return f"it ends at byte {size} without an end marker, so members may be missing"
    while block:
        if any(block):
            return f"what follows byte {end} is no header, so members may be missing"
        block = file.read(1 << 20)
    return ""
