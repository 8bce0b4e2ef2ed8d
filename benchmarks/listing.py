"""A listing of 10^6 files and a manifest of 10^7 rows: time and peak memory of each step.

    python benchmarks/listing.py [--files 1000000] [--rows 10000000]

The files are real ones (hard links to a few small files, in folders of a thousand), the manifest
has the columns and the size of a real one. Each step is a fresh process.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.process_memory import watch
from storage.fs import Store, open_store
from storage.manifest import MANIFEST_SCHEMA, TableWriter, read_table

PER_FOLDER, PER_SHARD, PIECE = 1000, 4000, 100_000
MANIFEST = "manifest.parquet"


def make_files(folder: Path, count: int) -> None:
    """Make files in folders of a thousand; a link costs no block of the disk."""
    for first in range(0, count, PER_FOLDER):
        place = folder / f"{first // PER_FOLDER:05d}"
        place.mkdir(parents=True)
        real = place / f"{first:08d}.jpg"
        real.write_bytes(b"%d" % first)
        for i in range(first + 1, min(first + PER_FOLDER, count)):
            os.link(real, place / f"{i:08d}.jpg")


def manifest_pieces(rows: int) -> Iterator[pa.Table]:
    """Yield the rows of a manifest of images in pieces."""
    for first in range(0, rows, PIECE):
        yield _piece(first, min(PIECE, rows - first))


def _piece(first: int, count: int) -> pa.Table:
    rng = np.random.default_rng(first)
    number = np.arange(first, first + count)
    hashes = [bytes(row).hex() for row in rng.integers(0, 256, (count, 32), np.uint8)]
    keys = [f"{i:08d}-{digest[:16]}-0000" for i, digest in zip(number, hashes, strict=True)]
    row = number % PER_SHARD
    values = {
        "key": keys,
        "shard": number // PER_SHARD,
        "row": row,
        "ext": ["jpg"] * count,
        "offset": row * 31_744 + 512,
        "size": rng.integers(20_000, 30_000, count),
        "checksum": rng.integers(0, 2**63, count),
        "meta_offset": row * 31_744 + 31_232,
        "meta_size": np.full(count, 12),
        "meta_checksum": np.full(count, 7),
        "shape": [[256, 341, 3]] * count,
        "dtype": ["uint8"] * count,
        "source": [f"/data/photos/{i // 1000:05d}/{i:08d}.jpg" for i in number],
        "content_hash": hashes,
        "group": hashes,
        "split": ["train"] * count,
        "label": [""] * count,
        "score": np.zeros(count, np.float32),
        "metadata": ["{}"] * count,
    }
    columns = [
        pa.array(values[field.name], field.type)
        if field.name in values
        else pa.nulls(count, field.type)
        for field in MANIFEST_SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=MANIFEST_SCHEMA)


# -- steps, each in a process of its own


def list_files(folder: str) -> int:
    """List a folder as an ingest does."""
    from pipelines.listing import list_sources

    return len(list_sources([folder]))


def make_rows(_: str, rows: int = 0) -> int:
    """Only make the rows: what the next step costs beside the writing."""
    return sum(len(piece) for piece in manifest_pieces(rows))


def write_manifest(store: str, rows: int = 0) -> int:
    """Write the manifest by row groups."""
    writer = TableWriter(MANIFEST_SCHEMA)
    for piece in manifest_pieces(rows):
        writer.add_table(piece)
    writer.write(Store(store), MANIFEST)
    return rows


def check_manifest(store: str) -> int:
    """Compare every value with its digest, row group by row group, as `verify` does."""
    from storage.streaming import TableFile

    with TableFile(Store(store), MANIFEST) as table:
        table.check()
        return table.rows


def read_places(store: str) -> int:
    """Read the columns that a stream reads, checked."""
    from pipelines.rows import _NEEDED

    return len(read_table(Store(store), MANIFEST, columns=_NEEDED))


def read_one_shard(store: str) -> int:
    """Read the rows of one shard."""
    from storage.streaming import TableFile

    with TableFile(Store(store), MANIFEST) as table:
        return len(table.rows_of_shard(1, ["key", "offset", "size"]))


STEPS: dict[str, Callable[..., int]] = {
    "list_files": list_files,
    "make_rows": make_rows,
    "write_manifest": write_manifest,
    "check_manifest": check_manifest,
    "read_places": read_places,
    "read_one_shard": read_one_shard,
}
_MAKES_ROWS = ("make_rows", "write_manifest")


def run_step(name: str, place: str, rows: int) -> None:
    """Do one step and print its items and seconds."""
    function = STEPS[name]
    began = time.perf_counter()
    items = function(place, rows) if name in _MAKES_ROWS else function(place)
    print(items, time.perf_counter() - began)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--scratch", type=Path, help="where to make the files")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        run_step(*options.step, options.rows)
        return
    print("| step | what it does | items | s | peak MiB |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        make_files(Path(scratch) / "raw", options.files)
        open_store(f"{scratch}/store")
        for name, function in STEPS.items():
            place = f"{scratch}/{'raw' if name == 'list_files' else 'store'}"
            script = [sys.executable, str(Path(__file__).resolve()), "--rows", str(options.rows)]
            run = watch([*script, "--step", name, place])
            items, seconds = run.output.split()[-2:]
            what = str(function.__doc__).splitlines()[0].rstrip(".")
            print(
                f"| {name} | {what} | {int(items):,} | {float(seconds):.2f} | {run.driver:.0f} |",
                flush=True,
            )
        size = Store(f"{scratch}/store").size(MANIFEST)
        print(f"\nmanifest: {size / 2**20:.0f} MiB, {size / options.rows:.1f} bytes a row")


if __name__ == "__main__":
    main()
