"""The content of raw files as hashes: what makes an input new, known or a duplicate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pipelines.executors import Executor, run_jobs
from pipelines.listing import raw_files
from pipelines.progress import Progress
from pipelines.raw import RawFile, opened, refusal_of
from preprocessing.source import Source
from storage.fs import Store

BLOCK_BYTES, BLOCK_FILES = 64 * 2**20, 4096
_PIECE = 4 * 2**20


def hash_inputs(
    listing: pa.Table, executor: Executor, progress: Progress | None = None
) -> pa.Table:
    """Return the listing with the columns `content_hash`, `stamp` and what could not be read.

    Returns:
        content_hash: SHA-256 in hexadecimal, of a folder over the names and hashes of its files;
        "" for an input with a problem. stamp: time of the last change in ns, 0 where the store
        tells none.
    """
    size = len(listing)
    hashes = np.zeros(size, "S64")
    stamps = np.zeros(size, np.int64)
    problems = listing["problem"].to_pylist()
    blocks = list(_blocks(listing))
    done = 0
    # Reading and hashing leave Python's lock, so threads do what processes would be started for.
    here = executor if executor.kind == "ray" else replace(executor, kind="threads")
    for index, result, _ in run_jobs(hash_block, _Jobs(listing, blocks), here):
        start, stop = blocks[index]
        for row, (digest, stamp, problem) in zip(range(start, stop), result, strict=True):
            hashes[row], stamps[row], problems[row] = digest, stamp, problem
        done += stop - start
        if progress:
            progress("hash files", done, size)
    place = listing.schema.get_field_index("problem")
    return (
        listing.set_column(place, "problem", pa.array(problems, pa.string()))
        .append_column("content_hash", pa.array(hashes, pa.binary()).cast(pa.string()))
        .append_column("stamp", pa.array(stamps))
    )


class _Jobs:
    """The blocks of a listing as lists of files, each made when it is asked for."""

    def __init__(self, listing: pa.Table, blocks: list[tuple[int, int]]) -> None:
        self.listing, self.blocks = listing, blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[tuple[tuple[RawFile, str], ...]]:
        for start, stop in self.blocks:
            rows = self.listing.slice(start, stop - start)
            yield tuple(zip(raw_files(rows), rows["problem"].to_pylist(), strict=True))


def _blocks(listing: pa.Table) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of runs of about equal bytes."""
    sizes = listing["size"].to_numpy()
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start] - sizes[start]
        full = int(np.searchsorted(ends, before + BLOCK_BYTES)) + 1
        stop = min(full, start + BLOCK_FILES, len(sizes))
        yield start, stop
        start = stop


def hash_block(files: tuple[tuple[RawFile, str], ...]) -> list[tuple[str, int, str]]:
    """Return (hash, stamp, problem) of each file; one with a problem is not read."""
    return [("", 0, problem) if problem else _hash(file) for file, problem in files]


def _hash(file: RawFile) -> tuple[str, int, str]:
    try:
        return content_hash(file), stamp(file), ""
    except OSError as error:
        return "", 0, ": ".join(refusal_of(error))


def content_hash(file: RawFile) -> str:
    """Return the SHA-256 of an input's bytes."""
    with opened(file) as content:
        if isinstance(content, Source):
            return source_hash(content)
        digest = hashlib.sha256()
        for name, source in sorted(content.items()):
            digest.update(f"{name}\0{source_hash(source)}\n".encode())
        return digest.hexdigest()


def source_hash(source: Source) -> str:
    """Return the SHA-256 of the bytes of a source, read in pieces."""
    digest = hashlib.sha256()
    for offset in range(0, len(source), _PIECE):
        digest.update(source[offset : offset + _PIECE])
    return digest.hexdigest()


def stamp(file: RawFile) -> int:
    """Return when a file of this machine was changed last, in ns; 0 for any other input."""
    local = Store(file.root).local_path(file.name)
    return 0 if local is None or file.folder else local.stat().st_mtime_ns
