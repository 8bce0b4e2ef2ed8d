"""Does it learn? CIFAR-10: kNN, linear probe and effective rank against CPU time, by target.

    python benchmarks/learning.py FOLDER STORE [--only hog pixels] [--picture PATH] [key=value …]

FOLDER holds train.tar.gz and test.tar.gz, tars of class folders. All recipes train on the same
10,000 training images. Their last encoders are taught by these and asked the 10,000 test images
(kNN: k = 20, cosine of centred, mean-pooled features; linear: MAE's protocol); on the way, 2,000 of
each. The rank is that of the features of the asked images, at most the width, 128. What STORE holds
already is not done again. Labels are read by the probes alone. `OMP_NUM_THREADS=1` makes the CPU
seconds those of one core. Words such as `steps=100` replace a recipe's own, for a look at the form.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.learning_clock import measure, train_timed
from benchmarks.learning_picture import draw
from pipelines.executors import Executor
from pipelines.feed import open_eval
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from storage.fs import Store, open_store
from training.checkpoints import list_checkpoints
from training.feeds import eval_stream
from training.probes import Features, knn_accuracy, linear_right
from training.recipe import read_recipe

RECIPES = {"maskfeat": "cifar_maskfeat", "hog": "cifar_hog", "pixels": "cifar_pixels"}
DATASETS = ("cifar10", "cifar10_test")
POINTS = (0, 100, 200, 400, 700, 1000, 1400, 1900, 2400, 3200, 4200, 5600, 7200)
"steps after which an encoder is looked at, where its run has that checkpoint"
FEW, ALL = 2_000, 10_000
"samples that teach and that are asked, on the way and at the end"


def raw_pixels(store: Store, dataset: str) -> Features:
    """Return flattened pixels as features."""
    stream = replace(eval_stream(read_recipe("cifar_hog"), dataset), batch=500, samples=ALL)
    parts, labels = [], list[str]()
    for batch in open_eval(store, stream):
        parts.append(batch["pixels"].flatten(1).float() / 255)
        labels += batch["label"]
    return torch.cat(parts), labels


def curve(store: Store, run: str) -> list[dict[str, Any]]:
    """Return the figures at the run's checkpoints among `POINTS`, the untrained encoder first."""
    steps = {0, *list_checkpoints(store, run)}
    return [measure(store, run, step, DATASETS, FEW) for step in POINTS if step in steps]


def show_ends(store: Store, runs: list[str]) -> None:
    """Print the table of raw pixels and of each run's encoder, untrained and last."""
    print("| features | kNN | linear probe | effective rank | steps | CPU seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    known, asked = (raw_pixels(store, name) for name in DATASETS)
    straight = float(linear_right(known, asked).float().mean())
    print(f"| raw pixels | {knn_accuracy(known, asked):.2%} | {straight:.2%} |  |  |  |")
    for run in runs:
        for step in (0, list_checkpoints(store, run)[-1]):
            name = f"{run}, {'trained' if step else 'untrained'}"
            print(f"| {name} {row(measure(store, run, step, DATASETS, ALL))}", flush=True)


def row(found: dict[str, Any]) -> str:
    """Return the cells of one look at an encoder."""
    return (
        f"| {found['knn']:.2%} | {found['linear']:.2%} | {found['effective_rank']:.1f} "
        f"| {found['step']:,} | {found['cpu_seconds']:,.0f} |"
    )


def main() -> None:
    """Train what is missing, print the tables and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("store")
    parser.add_argument("words", nargs="*", help="key=value in place of the recipes' own")
    parser.add_argument("--only", nargs="+", choices=sorted(RECIPES), default=list(RECIPES))
    parser.add_argument("--picture", type=Path, help="file for the curves, as SVG")
    given = parser.parse_intermixed_args()
    store = open_store(given.store)
    for name, dataset in zip(("train", "test"), DATASETS, strict=True):
        spec = IngestSpec(modality="image", labels="parent")
        ingest(store, [str(given.folder / f"{name}.tar.gz")], dataset, spec, Executor(workers=1))
    curves = {}
    for run in given.only:
        train_timed(store, read_recipe(RECIPES[run], given.words), run)
        curves[run] = curve(store, run)
        print(f"\n{run} target, {FEW:,} images taught, {FEW:,} asked\n")
        print("| kNN | linear probe | effective rank | steps | CPU seconds |")
        print("| --- | --- | --- | --- | --- |")
        print("\n".join(row(found) for found in curves[run]), flush=True)
    print(f"\nEnds: {ALL:,} images taught, {ALL:,} asked\n")
    show_ends(store, given.only)
    if given.picture:
        given.picture.write_text(draw(curves))


if __name__ == "__main__":
    main()
