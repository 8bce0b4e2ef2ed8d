"""The order of 10^6 to 10^9 samples: seconds and memory to the first and to a middle batch.

    python benchmarks/order.py [--samples 1000000 1000000000] [--rounds 5] [--peers-python PYTHON]
                               [--gigabytes 6] [--seconds 150]

Each figure is of a process of its own: seconds from numbers to indices, without imports, and what
its peak memory grew by. headrace computes a global batch of 256 from the sizes of the shards (1,000
samples each); torch's DistributedSampler permutes all samples, and can begin in the middle only by
passing over what comes before; MosaicML streaming places and shuffles the ids of all samples (its
`get_partitions` and `get_shuffle`, as its dataset calls them), and can leave out what was seen.
Medians of all rounds; of peers beyond 10^7 samples, of one. A contender that would need more than
GIGABYTES is not run, and the table says what it would take; one that takes more than SECONDS is
stopped.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BATCH, SHARD = 256, 1000
TORCH = "torch DistributedSampler"
MOSAIC = "mosaicml-streaming"
PEAK_BYTES = {TORCH: 48, MOSAIC: 42}
"""a sample. DistributedSampler: a tensor of 8 bytes, a list of 8, its numbers of 32; streaming: as
measured at 10^7"""


def order_headrace(samples: int, middle: bool) -> None:
    """Compute one global batch of headrace's order."""
    from pipelines.order import Order, OrderConfig

    sizes = np.full(samples // SHARD, SHARD, np.int64)
    order = Order(sizes, OrderConfig(batch=BATCH, lanes=8, seed=0))
    order.batch(order.batches_per_epoch // 2 if middle else 0)


def order_torch(samples: int, middle: bool) -> None:
    """Take a batch of indices from DistributedSampler."""
    from torch.utils.data import DistributedSampler

    class Sized:
        def __len__(self) -> int:
            return samples

    sampler = iter(DistributedSampler(Sized(), num_replicas=1, rank=0, seed=0))
    begin = samples // 2 if middle else 0
    list(islice(sampler, begin, begin + BATCH))


def order_mosaic(samples: int, middle: bool) -> None:
    """Compute the ids of an epoch as a StreamingDataset of one rank and worker does."""
    from streaming.base.partition import get_partitions
    from streaming.base.shuffle import get_shuffle

    sizes = np.full(samples // SHARD, SHARD, np.int64)
    seen = samples // 2 if middle else 0
    places = get_partitions("relaxed", samples, 1, 1, 1, 1, BATCH, seen)
    shuffled = get_shuffle("py1e", sizes, 1, 0, 0, 1 << 18)
    np.where(places < 0, -1, shuffled[places])


CONTENDERS: dict[str, Callable[[int, bool], None]] = {
    "headrace": order_headrace,
    TORCH: order_torch,
    MOSAIC: order_mosaic,
}


def measure(name: str, samples: int, middle: bool) -> None:
    """Print seconds and the growth of the peak memory in bytes, as JSON."""
    sys.path.insert(0, str(ROOT))
    import pipelines.order  # noqa: F401  # imports are no part of the figure

    if name == TORCH:
        import torch.utils.data  # noqa: F401
    if name == MOSAIC:
        import streaming.base.partition
        import streaming.base.shuffle  # noqa: F401
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    CONTENDERS[name](samples, middle)
    seconds = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"seconds": seconds, "bytes": grown * 1024}))


def row(python: str, name: str, samples: int, middle: bool, given: argparse.Namespace) -> str:
    """Return a row of the table."""
    where = "middle" if middle else "first"
    begins = f"| {samples:.0e} | {where} | {name} |"
    needed = samples * PEAK_BYTES.get(name, 0) / 1e9
    if needed > given.gigabytes:
        return f"{begins} not run | would take {needed * 1000:,.0f} |"
    told = []
    line = [python, __file__, "--one", name, "--samples", str(samples), *["--middle"] * middle]
    for _ in range(1 if name in PEAK_BYTES and samples > 10**7 else given.rounds):
        try:
            done = subprocess.run(
                line, capture_output=True, text=True, check=True, timeout=given.seconds
            )
        except subprocess.TimeoutExpired:
            return f"{begins} more than {given.seconds} | |"
        told.append(json.loads(done.stdout))
    seconds = statistics.median(one["seconds"] for one in told)
    memory = statistics.median(one["bytes"] for one in told)
    return f"{begins} {seconds:.4f} | {memory / 1e6:,.1f} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="*", default=[10**n for n in (6, 7, 8, 9)])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=6.0)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--peers-python", default=sys.executable)
    parser.add_argument("--quick", action="store_true", help="one round, up to 10^7 samples")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--middle", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        measure(given.one, given.samples[0], given.middle)
        return
    if given.quick:
        given.rounds, given.samples = 1, [10**6, 10**7]
    sys.path.insert(0, str(ROOT))
    from benchmarks.ingest_images import has_package  # not in the processes that are measured

    pythons = dict.fromkeys(CONTENDERS, sys.executable) | {MOSAIC: given.peers_python}
    if not has_package(given.peers_python, MOSAIC):
        print(f"{MOSAIC} is not installed: not measured", file=sys.stderr)
        pythons.pop(MOSAIC)
    print("| samples | batch | contender | seconds | MB |\n| --- | --- | --- | --- | --- |")
    for samples in given.samples:
        for name, python in pythons.items():
            for middle in (False, True):
                print(row(python, name, samples, middle, given), flush=True)


if __name__ == "__main__":
    main()
