"""Members of shards, 5 KB samples, bytes only: verified reads against bare `pread` and webdataset.

    python benchmarks/read_members.py [--samples 20000] [--rounds 7]

All three read the same payloads in stored order from a warm page cache, in one process, and
return the same bytes (an order-keeping digest of all of them is compared first). `headrace` reads
by the places of the manifest and verifies each checksum (`ShardReader.read`); `pread` takes the
same places and verifies nothing; webdataset iterates over the tars and yields dictionaries.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import webdataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rounds import run_rounds, table
from storage.fs import Store
from storage.shards import Row, Sample, ShardReader, pack_shard

PER_SHARD = 2000


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar, and where its payloads lie."""

    name: str
    rows: list[Row]


def write_shards(store: Store, samples: int, size: int) -> list[Shard]:
    """Write shards of random payloads of about `size` bytes."""
    rng = np.random.default_rng(0)
    shards = []
    for first in range(0, samples, PER_SHARD):
        made = [
            Sample(f"k{i:08d}", "jpg", rng.bytes(int(rng.integers(size // 2, size * 3 // 2))), {})
            for i in range(first, min(first + PER_SHARD, samples))
        ]
        data, rows = pack_shard(made)
        shards.append(Shard(f"shard-{len(shards):06d}.tar", rows))
        store.write(shards[-1].name, data)
    return shards


def by_headrace(store: Store, shards: list[Shard]) -> Iterator[bytes]:
    """Yield every payload, verified."""
    for shard in shards:
        with ShardReader(store, shard.name, shard.name) as reader:
            read = reader.read
            for row in shard.rows:
                yield read(row.offset, row.size, row.checksum, row.key)


def by_pread(store: Store, shards: list[Shard]) -> Iterator[bytes]:
    """Yield every payload as the system gives it."""
    for shard in shards:
        handle = os.open(str(store.local_path(shard.name)), os.O_RDONLY)
        for row in shard.rows:
            yield os.pread(handle, row.size, row.offset)
        os.close(handle)


def by_webdataset(store: Store, shards: list[Shard]) -> Iterator[bytes]:
    """Yield every payload by webdataset's own iteration; nothing is decoded."""
    urls = [str(store.local_path(shard.name)) for shard in shards]
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        yield sample["jpg"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=5_000, help="mean bytes of a payload")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        shards = write_shards(store, options.samples, options.size)
        readers: dict[str, Callable[[Store, list[Shard]], Iterator[bytes]]] = {
            "headrace, verified": by_headrace,
            "pread at the same places, unverified": by_pread,
            f"webdataset {webdataset.__version__}": by_webdataset,
        }
        digests = {digest(read(store, shards)) for read in readers.values()}
        if len(digests) != 1:
            raise RuntimeError("the readers give different bytes: no comparison.")
        works = {
            name: lambda read=read: sum(1 for _ in read(store, shards))
            for name, read in readers.items()
        }
        print(table(run_rounds(works, options.rounds), "headrace, verified", "samples"))


def digest(payloads: Iterator[bytes]) -> str:
    """Return the SHA-256 of all payloads in order."""
    total = hashlib.sha256()
    for payload in payloads:
        total.update(payload)
    return total.hexdigest()


if __name__ == "__main__":
    main()
