"""JPEG files to shards at short side 256, quality 90: headrace against four peers' own writers.

    python benchmarks/ingest_images.py [FOLDER] [--rounds 5] [--only mds] [--peers-python PYTHON]

Every contender stores byte-identical pictures (checked by SHA-256) with two processes; headrace
also hashes every input, refuses what is truncated, measures statistics, checksums every member,
flushes to disk and commits. Two tables: the whole command from a cold start, imports and pools
included, and the same less the start-up, which is the contender's own run over two pictures.
The bound is decode + resize + encode alone, in one process. Without a folder the JPEGs are
made, with about the detail of photographs. litdata and mosaicml-streaming pin other versions of
our libraries: `--peers-python` names the interpreter of an environment that has them.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rounds import Rounds, Work, command, run_rounds, table, without

WRITERS = Path(__file__).with_name("image_writers.py")
PACKAGES = {
    "headrace": "headrace",
    "webdataset": "webdataset",
    "mds": "mosaicml-streaming",
    "litdata": "litdata",
    "ray": "ray",
}


def make_files(folder: Path, count: int) -> None:
    """Write JPEGs with about the detail of photographs."""
    rng = np.random.default_rng(0)
    for i in range(count):
        noise = rng.integers(0, 255, (375, 500, 3), np.uint8)
        smooth = cv2.GaussianBlur(noise, (0, 0), 4).astype(np.float32)
        pixels = np.clip((smooth - 127) * 6 + 127 + rng.normal(0, 6, smooth.shape), 0, 255)
        cv2.imwrite(str(folder / f"{i:05d}.jpg"), pixels.astype(np.uint8))


def has_package(python: str, package: str) -> str | None:
    """Return the version of a package in an environment, or None where it is missing."""
    ask = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def contenders(only: list[str], peers_python: str) -> dict[str, tuple[str, str]]:
    """Return (interpreter, label) of each contender that is installed; says which are not."""
    found = {"headrace": (sys.executable, f"headrace {version('headrace')}")}
    for name in only:
        for python in (sys.executable, peers_python):
            if name not in found and (is_version := has_package(python, PACKAGES[name])):
                found[name] = python, f"{PACKAGES[name]} {is_version}"
        if name not in found:
            print(f"{PACKAGES[name]} is not installed: not measured", file=sys.stderr)
    return {**found, "bound": (sys.executable, "bound: decode + resize + encode, one process")}


def digests(python: str, name: str, folder: Path, scratch: Path) -> list[str]:
    """Return the sorted SHA-256 of the pictures that a contender stores of a folder."""
    target = scratch / f"check-{name}"
    command([python, str(WRITERS), "write", name, str(folder), str(target)], 0)()
    ask = [python, str(WRITERS), "digests", name, str(target)]
    done = subprocess.run(ask, capture_output=True, text=True, check=True)
    return done.stdout.split()


def work(python: str, name: str, folder: Path, scratch: Path, count: int) -> Work:
    """Return the work of one contender: write a folder to a place that is empty every time."""

    def write() -> int:
        with tempfile.TemporaryDirectory(dir=scratch) as place:
            target = f"{place}/shards"
            command([python, str(WRITERS), "write", name, str(folder), target], count)()
        return count

    return write


def measure(found: dict[str, tuple[str, str]], folder: Path, rounds: int) -> str:
    """Return both tables."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        few = scratch / "few"
        few.mkdir()
        for path in files[:2]:
            shutil.copy(path, few)
        wanted: list[str] = []
        for name, (python, label) in found.items():
            stored = digests(python, name, folder, scratch) if name != "bound" else wanted
            wanted = wanted or stored
            if stored != wanted or len(stored) != len(files):
                raise RuntimeError(f"{label} stores other pictures than headrace: no comparison.")
        run = partial(_rounds, found, scratch=scratch, rounds=rounds)
        start, whole = run(few, 2), run(folder, len(files))
    ours = found["headrace"][1]
    return (
        f"All contenders store the same {len(files)} pictures, byte for byte.\n\n"
        "## Whole command, cold start\n\n"
        f"{table(whole, ours, 'images')}\n"
        f"## Less start-up (each contender's own run over two pictures)\n\n"
        f"{table(without(whole, start), ours, 'images')}"
    )


def _rounds(
    found: dict[str, tuple[str, str]], folder: Path, count: int, *, scratch: Path, rounds: int
) -> Rounds:
    return run_rounds(
        {
            label: work(python, name, folder, scratch, count)
            for name, (python, label) in found.items()
        },
        rounds,
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="JPEG files; made when left out")
    parser.add_argument("--made", type=int, default=300, help="how many files to make")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(PACKAGES)[1:], help="peers to run")
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter of the peers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if options.folder is None:
            make_files(folder, options.made)
        print(measure(contenders(options.only, options.peers_python), folder, options.rounds))


if __name__ == "__main__":
    main()
