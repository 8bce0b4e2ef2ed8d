"""What the sources hold: a table with a row for each raw input, small enough for millions of them.

A source is a folder, one file, a tar, or a list of files (CSV, Parquet, JSONL). Everything listed
is an input of the books: it ends as written, duplicate or rejected.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from pipelines.file_lists import LIST_ENDINGS, read_list
from pipelines.raw import RawFile
from pipelines.tars import TAR_ENDINGS, list_tar
from storage.fs import Entry, Store, plain_uri, split_uri

LISTING_SCHEMA = pa.schema(
    [
        ("root", pa.string()),
        ("name", pa.string()),
        ("size", pa.int64()),
        ("member", pa.string()),
        ("offset", pa.int64()),
        ("folder", pa.bool_()),
        ("label", pa.string()),
        ("extra", pa.string()),
        ("problem", pa.string()),  # "reason_class: detail" of an input that cannot be read
    ]
)
_DEFAULTS = {"member": "", "offset": -1, "folder": False, "label": "", "extra": "", "problem": ""}
_ROWS = 1 << 13


def list_sources(sources: Sequence[str], *, labels: str = "") -> pa.Table:
    """List the raw inputs of all sources: `LISTING_SCHEMA` and `uri`, each uri once.

    Raises:
        FileNotFoundError: a source does not exist.
        ValueError: a list without a column of paths, or without the column of labels.
    """
    table = pa.concat_tables([list_source(source, labels=labels) for source in sources])
    roots = table["root"].combine_chunks().dictionary_encode()
    shown = pa.array([plain_uri(root) for root in roots.dictionary.to_pylist()], pa.string())
    place = compute.binary_join_element_wise(shown.take(roots.indices), table["name"], "/")
    member = compute.if_else(compute.equal(table["member"], ""), "", "!")
    uri = compute.binary_join_element_wise(place, member, table["member"], "")
    table = table.append_column("uri", uri)
    first = first_places(uri)
    return table if len(first) == len(table) else table.take(first)


def first_places(values: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the places where a value comes for the first time, ascending."""
    codes = values.dictionary_encode().combine_chunks().indices.to_numpy()
    return np.sort(np.unique(codes, return_index=True)[1])


def _plain_source(source: str) -> str:
    """Return a source by its shortest name; folders without one of their own by all of it."""
    if "://" in source:
        return source.rstrip("/")
    short = os.path.normpath(source)
    return os.path.abspath(short) if os.path.basename(short) in (".", "..") else short


def list_source(source: str, *, labels: str = "") -> pa.Table:
    """List the raw inputs of a source, in the order of their paths; members of a tar in its own.

    Args:
        source: a folder, a file, a `.tar`, `.tar.gz` or `.tgz`, or a list of files with a column
            named path, uri, file or filename (relative names count from the list's folder).
        labels: `parent` takes the name of the file's folder, any other word a column of the list.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: a list without a column of paths, or without the column of labels.
    """
    source = _plain_source(source)
    parent, name = split_uri(source)
    above = Store(parent)
    if name and not name.lower().endswith(".zarr") and above.exists(name):
        if name.lower().endswith(LIST_ENDINGS):
            return _table(read_list(above, name, labels), labels="")
        if name.lower().endswith(TAR_ENDINGS):
            rows: Iterable[dict[str, Any]] = (
                {"root": above.uri, "name": name, **row} for row in list_tar(above, name)
            )
        else:
            rows = [{"root": above.uri, "name": name, "size": above.size(name)}]
    elif name.lower().endswith(".zarr"):
        rows = _folder_rows(above.uri, _as_inputs(above.walk(name)))
    else:
        store = Store(source)
        rows = _folder_rows(store.uri, _as_inputs(store.walk()))
    if labels not in ("", "parent"):
        raise ValueError(
            f"--labels {labels}: {source} is not a list of files, so it has no columns. "
            "Use '--labels parent', or a CSV, Parquet or JSONL list."
        )
    table = _table(rows, labels=labels)
    if not len(table):
        raise FileNotFoundError(
            f"{source}: no such file, and no files below it. Check the path or the URI."
        )
    return table


def _as_inputs(entries: Iterable[Entry]) -> Iterator[tuple[str, int, bool]]:
    """Yield (path, size, folder) of each input; the files of an OME-Zarr are one."""
    whole, size = "", 0
    for entry in entries:
        if whole and entry.path.startswith(f"{whole}/"):
            size += entry.size
            continue
        if whole:
            yield whole, size, True
        parts = entry.path.split("/")
        depth = next((i for i, part in enumerate(parts[:-1], 1) if part.endswith(".zarr")), 0)
        whole, size = "/".join(parts[:depth]), entry.size
        if not whole:
            yield entry.path, entry.size, False
    if whole:
        yield whole, size, True


def _folder_rows(root: str, inputs: Iterable[tuple[str, int, bool]]) -> Iterator[dict[str, Any]]:
    for path, size, folder in inputs:
        row = {"root": root, "name": path, "size": max(size, 0), "folder": folder}
        if size < 0:
            row["problem"] = "missing_file: a link that leads to no file"
        yield row


def _table(rows: Iterable[dict[str, Any]], *, labels: str) -> pa.Table:
    """Collect rows in batches, so that no Python object a file stays."""
    following, batches = iter(rows), []
    while some := list(islice(following, _ROWS)):
        full = [_named({**_DEFAULTS, **row}, labels) for row in some]
        batches.append(pa.RecordBatch.from_pylist(full, LISTING_SCHEMA))
    return pa.Table.from_batches(batches, LISTING_SCHEMA)


def _named(row: dict[str, Any], labels: str) -> dict[str, Any]:
    """Return a row with its label, and with a name that can be written."""
    if labels == "parent":
        row["label"] = PurePosixPath(row["member"] or row["name"]).parent.name
    for field in ("name", "member", "label"):
        if not row[field].isascii() and not _is_text(row[field]):
            shown = (
                row[field].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            )
            row[field] = shown
            row["problem"] = "unrecognised_format: the file's name is not UTF-8; rename the file"
    return row


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def raw_files(table: pa.Table) -> list[RawFile]:
    """Return the inputs of some rows of a listing."""
    names = [name for name in LISTING_SCHEMA.names if name != "problem"]
    return [RawFile(**row) for row in table.select(names).to_pylist()]
