"""Does it learn? kNN on CIFAR-10: raw pixels, an untrained encoder, HOG targets, pixel targets.

    python benchmarks/learning.py FOLDER STORE

FOLDER holds train.tar.gz and test.tar.gz, tars of class folders. Both recipes train on the same
10,000 training images; these are the bank, the 10,000 test images are asked (k = 20, cosine of
centred, mean-pooled features of the frozen encoder). What STORE holds already is not done again.
Labels are read by the probe alone.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipelines.executors import Executor
from pipelines.feed import open_eval
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from storage.fs import Store, open_store
from training.evaluate import evaluate
from training.feeds import eval_stream
from training.pretrain import pretrain
from training.probes import Features, knn_accuracy
from training.recipe import read_recipe
from training.runs import read_record

RECIPES = {"hog": "cifar_hog", "pixels": "cifar_pixels"}


def raw_pixels(store: Store, dataset: str) -> Features:
    """Return flattened pixels as features."""
    stream = replace(eval_stream(read_recipe("cifar_hog"), dataset), batch=500)
    parts, labels = [], list[str]()
    for batch in open_eval(store, stream):
        parts.append(batch["pixels"].flatten(1).float() / 255)
        labels += batch["label"]
    return torch.cat(parts), labels


def main() -> None:
    """Train what is missing and print the table."""
    folder, store = Path(sys.argv[1]), open_store(sys.argv[2])
    for name, dataset in (("train", "cifar10"), ("test", "cifar10_test")):
        spec = IngestSpec(modality="image", labels="parent")
        ingest(store, [str(folder / f"{name}.tar.gz")], dataset, spec, Executor(workers=2))
    known, asked = (raw_pixels(store, name) for name in ("cifar10", "cifar10_test"))
    rows = [("raw pixels", knn_accuracy(known, asked), "")]
    for run, recipe in RECIPES.items():
        if read_record(store, run, "summary.json") is None:
            pretrain(store, read_recipe(recipe), run=run, resume=True, workers=1)
        seconds = (read_record(store, run, "summary.json") or {})["seconds"]
        found = evaluate(store, run, "cifar10", test="cifar10_test", untrained=True)
        if run == "hog":
            rows.append(("untrained encoder", found["untrained_accuracy"], ""))
        rows.append((f"{run} target, trained", found["accuracy"], f"{seconds / 60:.1f}"))
    print("| features | kNN, 10,000 test images | minutes of training |\n| --- | --- | --- |")
    for name, accuracy, minutes in rows:
        print(f"| {name} | {accuracy:.2%} | {minutes} |")


if __name__ == "__main__":
    main()
