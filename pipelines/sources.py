"""Raw files: where they are, how they are listed and how their bytes are read.

A source is a folder, one file, a tar of files, or a list of files (CSV, Parquet, JSONL).
Everything listed is
an input of the books: it ends as written, duplicate or rejected.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from pyarrow import csv, parquet

from storage.fs import Store

_TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
_LIST_ENDINGS = (".csv", ".parquet", ".jsonl")
_PATH_COLUMNS = ("path", "uri", "file", "filename")


@dataclass(frozen=True, slots=True)
class RawFile:
    """One raw file of a source: `name` below `root`, or a member of the tar `name`."""

    root: str
    name: str
    size: int
    member: str = ""
    label: str = ""
    segments: tuple[tuple[float, float], ...] = ()
    "(start, end) in seconds of a video; empty takes all of it"

    @property
    def uri(self) -> str:
        """The address that manifests, rejects and errors show."""
        place = f"{self.root.rstrip('/')}/{self.name}"
        return f"{place}!{self.member}" if self.member else place

    @property
    def path(self) -> str:
        """The path below the source that patterns and labels look at."""
        return self.member or self.name


def list_source(source: str, *, labels: str = "") -> list[RawFile]:
    """List the raw files of a source, sorted by path.

    Args:
        source: a folder, a file, a `.tar`, `.tar.gz` or `.tgz`, or a list of files with a column
            named
            path, uri, file or filename (relative names count from the list's folder).
        labels: `parent` takes the name of the file's folder, any other word a column of the list.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: a list without a column of paths, or without the column of labels.
    """
    parent, _, name = source.rstrip("/").rpartition("/")
    folder = Store(parent or ("/" if source.startswith("/") else "."))
    if folder.exists(name):
        if name.lower().endswith(_TAR_ENDINGS):
            files = _list_tar(folder, name)
        elif name.lower().endswith(_LIST_ENDINGS):
            return _read_list(folder, name, labels)
        else:
            files = [RawFile(folder.uri, name, folder.size(name))]
    else:
        store = Store(source.rstrip("/"))
        files = [RawFile(store.uri, entry.path, entry.size) for entry in store.list()]
        if not files:
            raise FileNotFoundError(
                f"{source}: no such file, and no files below it. Check the path or the URI."
            )
    if labels == "parent":
        files = [replace(file, label=PurePosixPath(file.path).parent.name) for file in files]
    elif labels:
        raise ValueError(
            f"--labels {labels}: {source} is not a list of files, so it has no columns. "
            "Use '--labels parent', or a CSV, Parquet or JSONL list."
        )
    return sorted(files, key=lambda file: (file.name, file.member))


def _list_tar(store: Store, name: str) -> list[RawFile]:
    with _open_tar(store, name) as tar:
        return [
            RawFile(store.uri, name, info.size, member=str(PurePosixPath(info.name)))
            for info in tar
            if info.isfile()
        ]


def _open_tar(store: Store, name: str) -> tarfile.TarFile:
    data = store.read(name)
    if not name.endswith(".tar"):
        data = gzip.decompress(data)
    return tarfile.open(fileobj=io.BytesIO(data), mode="r:")


def _read_list(store: Store, name: str, labels: str) -> list[RawFile]:
    rows = _list_rows(store.read(name), name)
    known = list(rows[0]) if rows else []
    column = next((word for word in _PATH_COLUMNS if word in known), None)
    if rows and column is None:
        raise ValueError(
            f"{name}: has the columns {known}, none of them names files. "
            f"Call one of them {', '.join(_PATH_COLUMNS)}."
        )
    if labels and labels != "parent" and labels not in known:
        raise ValueError(f"--labels {labels}: {name} has the columns {known}. Name one of these.")
    files = []
    for row in rows:
        path = str(row[str(column)])
        parent, _, base = path.rpartition("/")
        root = store.uri if not path.startswith("/") and "://" not in path else parent or "/"
        below = path if root == store.uri else base
        label = PurePosixPath(path).parent.name if labels == "parent" else str(row.get(labels, ""))
        place = Store(root)
        size = place.size(below) if place.exists(below) else -1
        files.append(RawFile(root, below, size, label=label))
    return sorted(files, key=lambda file: (file.root, file.name))


def _list_rows(data: bytes, name: str) -> list[dict[str, object]]:
    if name.lower().endswith(".jsonl"):
        return [json.loads(line) for line in data.splitlines() if line.strip()]
    reader = io.BytesIO(data)
    table = (
        parquet.read_table(reader) if name.lower().endswith(".parquet") else csv.read_csv(reader)
    )
    return table.to_pylist()


def read_files(files: list[RawFile]) -> Iterator[tuple[RawFile, bytes]]:
    """Yield each raw file with its bytes; a tar is opened once for all of its members that are
    asked for.

    Files of a tar must follow each other, as `list_source` and the plan keep them.

    Raises:
        FileNotFoundError: a file of a list does not exist.
    """
    opened: tuple[str, str] | None = None
    members: dict[str, bytes] = {}
    for file in files:
        if not file.member:
            yield file, Store(file.root).read(file.name)
            continue
        if opened != (file.root, file.name):
            opened = (file.root, file.name)
            wanted = {f.member for f in files if (f.root, f.name) == opened}
            members = _read_members(file, wanted)
        yield file, members.pop(file.member)


def _read_members(file: RawFile, wanted: set[str]) -> dict[str, bytes]:
    found = {}
    with _open_tar(Store(file.root), file.name) as tar:
        for info in tar:
            member = str(PurePosixPath(info.name))
            if member in wanted:
                stream = tar.extractfile(info)
                if stream is not None:
                    found[member] = stream.read()
    return found
