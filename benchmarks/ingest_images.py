"""JPEG files to shards at short side 256, quality 90: headrace against four peers' own writers.

    python benchmarks/ingest_images.py [FOLDER] [--rounds 5] [--only mds] [--peers-python PYTHON]

Every contender works in two processes (headrace in two threads, which it chooses for a small
job). headrace also hashes every input, refuses what is truncated, measures statistics,
checksums every member, flushes to disk and commits. Two recipes: `headrace`, in which peers are
given headrace's own way of resizing and all store the same bytes, and `area`, in which peers
resize by OpenCV's INTER_AREA, as their users do. What each stores is checked by SHA-256. For each
recipe two tables: the whole command from a cold start, imports and pools included, and the same
less the start-up, which is the contender's own run over two pictures. The bound is decode +
resize + encode alone, in one process. Without a folder the JPEGs are made, with about the detail
of photographs. litdata and mosaicml-streaming pin other versions of our libraries:
`--peers-python` names the interpreter of an environment that has them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.image_writers import RECIPE, resized
from benchmarks.rounds import Rounds, Work, command, run_rounds, table, without

WRITERS = Path(__file__).with_name("image_writers.py")
PACKAGES = {
    "headrace": "headrace",
    "webdataset": "webdataset",
    "mds": "mosaicml-streaming",
    "litdata": "litdata",
    "ray": "ray",
}


Contenders = dict[str, tuple[str, str]]
"interpreter and label by name"


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


def contenders(only: list[str], peers_python: str) -> Contenders:
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
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        target = f"{place}/shards"
        command([python, str(WRITERS), "write", name, str(folder), target], 0)()
        ask = [python, str(WRITERS), "digests", name, target]
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()


def check_outputs(found: Contenders, folder: Path, recipe: str) -> None:
    """Raise unless every contender stores exactly the pictures of its recipe."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, (python, label) in found.items():
            os.environ[RECIPE] = "headrace" if name == "headrace" else recipe
            wanted = sorted(
                hashlib.sha256(resized(str(path))).hexdigest() for path in files(folder)
            )
            if name != "bound" and digests(python, name, folder, Path(scratch)) != wanted:
                raise RuntimeError(f"{label} stores other pictures than asked: no comparison.")


def likeness(folder: Path) -> float:
    """Return the mean PSNR in dB between the pictures of the two recipes, stored and decoded."""
    values = []
    for path in files(folder):
        pair = []
        for recipe in ("headrace", "area"):
            os.environ[RECIPE] = recipe
            data = np.frombuffer(resized(str(path)), np.uint8)
            pair.append(cv2.imdecode(data, cv2.IMREAD_COLOR).astype(np.float64))
        if error := float(np.mean((pair[0] - pair[1]) ** 2)):
            values.append(10 * np.log10(255**2 / error))
    return float(np.mean(values)) if values else float("inf")


def files(folder: Path) -> list[Path]:
    """Return the pictures of a folder."""
    return sorted(path for path in folder.iterdir() if path.is_file())


def work(python: str, name: str, folder: Path, recipe: str) -> Work:
    """Return the work of one contender: write a folder to a place that is empty every time."""
    count = len(files(folder))

    def write() -> int:
        with tempfile.TemporaryDirectory() as place:
            line = [python, str(WRITERS), "write", name, str(folder), f"{place}/shards"]
            return command(line, count, **{RECIPE: recipe})()

    return write


def take_rounds(found: Contenders, folder: Path, recipe: str, rounds: int) -> Rounds:
    """Run all contenders in turn."""
    works = {label: work(python, name, folder, recipe) for name, (python, label) in found.items()}
    return run_rounds(works, rounds)


def measure(found: Contenders, folder: Path, rounds: int, recipes: list[str]) -> None:
    """Print two tables for each recipe."""
    ours, count = found["headrace"][1], len(files(folder))
    with tempfile.TemporaryDirectory() as few:
        for path in files(folder)[:2]:
            shutil.copy(path, few)
        start = take_rounds(found, Path(few), "headrace", rounds)
    for recipe in recipes:
        check_outputs(found, folder, recipe)
        whole = take_rounds(found, folder, recipe, rounds)
        if recipe == "headrace":
            print(f"# Same bytes: every contender stores headrace's {count} pictures\n")
        else:
            print("# Own recipes: peers resize by OpenCV's INTER_AREA alone, headrace as it does\n")
            print(f"The stored pictures differ by {likeness(folder):.1f} dB PSNR.\n")
        print(f"## Whole command, cold start\n\n{table(whole, ours, 'images')}")
        print("## Less start-up (each contender's own run over two pictures)\n")
        print(table(without(whole, start), ours, "images"), flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="JPEG files; made when left out")
    parser.add_argument("--made", type=int, default=300, help="how many files to make")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--recipes", nargs="+", default=["headrace", "area"], help="which resize the peers use"
    )
    parser.add_argument("--only", nargs="*", default=list(PACKAGES)[1:], help="peers to run")
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter of the peers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if options.folder is None:
            make_files(folder, options.made)
        found = contenders(options.only, options.peers_python)
        measure(found, folder, options.rounds, options.recipes)


if __name__ == "__main__":
    main()
