"""Many tiny images from one folder: is the memory flat, is the time linear?

    python benchmarks/scale_ingest.py [--sizes 50000 100000 200000] [--kind processes]

Every image is a different PNG of 16x16 px. Each size is one `ingest` in a fresh process with two
workers; peaks are the kernel's, of the driver and of the largest worker.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.process_memory import Watched, watch


def make_images(folder: Path, first: int, last: int) -> None:
    """Write the images with the numbers from `first` to before `last`."""
    for i in range(first, last):
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3), np.uint8)
        data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
        (folder / f"{i:07d}.png").write_bytes(data.tobytes())


def run_ingest(folder: str, store: str, kind: str) -> None:
    """Ingest a folder: what `main` starts as a process of its own."""
    from pipelines.executors import Executor
    from pipelines.ingest import ingest
    from pipelines.ingest_spec import IngestSpec
    from storage.fs import open_store

    spec = IngestSpec(modality="image")
    report = ingest(open_store(store), [folder], "tiny", spec, Executor(kind=kind, workers=2))
    print(report["samples"])


def measure(folder: Path, count: int, kind: str) -> Watched:
    """Ingest the first images of a folder into a store of its own."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as store:
        watched = watch(
            [
                sys.executable,
                str(Path(__file__).resolve()),
                "--run",
                str(folder),
                store,
                "--kind",
                kind,
            ]
        )
    if int(watched.output.split()[-1]) != count:
        raise RuntimeError(f"{watched.output.split()[-1]} samples of {count} images.")
    return watched


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[50_000, 100_000, 200_000])
    parser.add_argument("--kind", default="processes", help="processes, threads or ray")
    parser.add_argument("--scratch", type=Path, help="where to make the files")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run_ingest(*options.run, options.kind)
        return
    print("| images | s | images/s | driver, peak MiB | largest worker, peak MiB |")
    print("| --- | --- | --- | --- | --- |")
    made = 0
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch) / "raw"
        folder.mkdir()
        for count in sorted(options.sizes):
            make_images(folder, made, count)
            made = count
            run = measure(folder, count, options.kind)
            print(
                f"| {count:,} | {run.wall:.1f} | {count / run.wall:,.0f} | {run.driver:.0f} "
                f"| {run.worker:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
