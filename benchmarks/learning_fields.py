"""Does it learn? Satellite tiles and sign clips: encoders of three seeds, trained and untrained.

    python benchmarks/learning_fields.py DATA STORE [--only scenes|signs] [--steps N] [--seeds N]

DATA holds satellite/eurosat_ms, satellite/hydro_s2 and videos/asl_gestures. There are two EuroSAT
tiles and one clip a sign, so no probe can ask for a class by other places or other people. Asked
instead is which of seven Sentinel-2 scenes (two EuroSAT tiles, five places of hydro_s2) a piece of
32 px is of, taught on the west half of each and asked on the east half; and which of 18 signs 8
frames are of, taught on the first two thirds of each video and asked on the last. No pixel is on
both sides, but one place and one person are: this tells what the features hold, not how they
generalise. Colour alone tells the scenes apart, so each piece is standardised by itself, channel by
channel, and texture has to. What STORE holds already is not done again. `OMP_NUM_THREADS=1` makes
the CPU seconds those of one core.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import rasterio
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.learning_clock import CPU, train_timed
from pipelines.catalog import open_snapshot
from pipelines.executors import Executor
from pipelines.feed import open_eval
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from storage.fs import Store, open_store
from storage.manifest import read_table
from storage.snapshots import part_path
from training.features import encode
from training.feeds import eval_stream
from training.frozen import fresh_trainer, load_kept
from training.probes import Features, knn_right, linear_right
from training.recipe import make_recipe, read_recipe
from training.runs import read_record, read_run

TILE = 32
EUROSAT = "B01 B02 B03 B04 B05 B06 B07 B08 B09 B10 B11 B12 B8A"
SURFACE = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12"
PIECES = {"modality": "satellite", "tile": TILE, "labels": "label", "heldout": 0.0}
CLIPS = {"modality": "video", "resize": 96, "frames": 8, "labels": "label", "heldout": 0.0}


@dataclass(frozen=True, slots=True)
class Trial:
    """What is learned from, by which recipes, and which samples are asked."""

    sources: tuple[tuple[str, dict[str, Any]], ...]
    "files below DATA, a label each by their name; how they are ingested"
    recipes: dict[str, list[str]]
    steps: int
    asks: Callable[[dict[str, Any], dict[str, Any]], bool | None]
    "(a sample, the last of its label) to whether it is asked (True), taught, or left out (None)"


def east(sample: dict[str, Any], last: dict[str, Any]) -> bool | None:
    """Ask pieces of a scene's east half; what lies on the middle line is left out."""
    left, middle = sample["tile"][1], (last["tile"][1] + TILE) // 2
    return left >= middle or (None if left + TILE > middle else False)


def late(sample: dict[str, Any], last: dict[str, Any]) -> bool:
    """Ask the last third of a video's clips."""
    return bool(sample["number"] >= 2 / 3 * (last["number"] + 1))


SMALL = [f"view.size={TILE}", "view.scale=[0.5,1.0]", "model.patch=4", "model.norm_input=self"]
HOG = "target=[{kind: hog, source: inputs, cell: 4, bins: 9, window: 16, norm: mae}]"
"of the recipe's targets the one that needs no stretched bands"
TRIALS = {
    "scenes": Trial(
        sources=(
            ("satellite/eurosat_ms/*/*.tif", {**PIECES, "overlap": 24, "channels": SURFACE}),
            ("satellite/hydro_s2/*.tif", {**PIECES, "overlap": 16, "channels": SURFACE}),
        ),
        recipes={"fgmae_msi_tiny": [*SMALL, HOG], "satmae_group_tiny": SMALL},
        steps=1500,
        asks=east,
    ),
    "signs": Trial(
        sources=(("videos/asl_gestures/*.mkv", CLIPS),),
        recipes={"maskfeat_video_tiny": [], "videomae_tiny": []},
        steps=600,
        asks=late,
    ),
}


def ingest_trial(store: Store, data: Path, name: str, lists: Path) -> None:
    """Ingest the files of a trial, each labelled by its name."""
    lists.mkdir(parents=True, exist_ok=True)
    for number, (pattern, given) in enumerate(TRIALS[name].sources):
        path = lists / f"{name}{number}.csv"
        files = sorted(data.resolve().glob(pattern))
        if "eurosat" in pattern:
            files = [without_cirrus(file, lists / file.name) for file in files]
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "label"])
            rows.writerows((str(file), file.stem) for file in files)
        spec = {**given, "channels": tuple(given.get("channels", "").split())}
        ingest(store, [str(path)], name, IngestSpec(**spec), Executor(workers=1))


def without_cirrus(source: Path, target: Path) -> Path:
    """Write a EuroSAT tile with the bands of the other scenes, in their order."""
    names = EUROSAT.split()
    with rasterio.open(source) as tile:
        profile = {**tile.profile, "count": len(SURFACE.split())}
        bands = tile.read([names.index(name) + 1 for name in SURFACE.split()])
    with rasterio.open(target, "w", **profile) as tile:
        tile.write(bands)
    return target.resolve()


def samples_of(store: Store, dataset: str) -> dict[str, dict[str, Any]]:
    """Return what is known of each sample, by key: its label, tile and number in its file."""
    found = {}
    snapshot = open_snapshot(store, dataset)
    for entry in snapshot.parts:
        path = f"{part_path(dataset, entry.part)}/manifest.parquet"
        table = read_table(store, path, entry.manifest_sha256, ["key", "label", "metadata"])
        for row in table.to_pylist():
            about = json.loads(row["metadata"])
            number = int(row["key"].rsplit("-", 1)[1])
            found[row["key"]] = {"label": row["label"], "number": number, "tile": about.get("tile")}
    return found


def split(
    found: tuple[Features, list[str]], samples: dict[str, dict[str, Any]], trial: Trial
) -> tuple[Features, Features]:
    """Return the taught and the asked features."""
    (values, labels), keys = found
    last = {about["label"]: about for about in _by_place(samples.values())}
    asks = [trial.asks(samples[key], last[samples[key]["label"]]) for key in keys]
    parts = []
    for side in (False, True):
        rows = [i for i, asked in enumerate(asks) if asked is side]
        parts.append((values[rows], [labels[i] for i in rows]))
    return parts[0], parts[1]


def _by_place(samples: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(samples, key=lambda s: (s["tile"][1] if s["tile"] else 0, s["number"]))


def probes(
    store: Store, run: str, dataset: str, trial: Trial, untrained: bool
) -> tuple[float, float]:
    """Return the accuracy of kNN and of the linear probe on a run's encoder."""
    record = read_run(store, run)
    recipe = make_recipe(record["recipe"])
    trainer = fresh_trainer(record, torch.device("cpu"))
    if not untrained:
        load_kept(trainer, store, run)
    encoded = encode(trainer, open_eval(store, eval_stream(recipe, dataset)))
    found = encoded.features, encoded.keys
    taught, asked = split(found, samples_of(store, dataset), trial)
    right = knn_right(taught, asked), linear_right(taught, asked)
    return float(right[0].float().mean()), float(right[1].float().mean())


def run_trial(store: Store, name: str, steps: int, seeds: int) -> Iterator[tuple[str, ...]]:
    """Train what is missing, probe it, and yield the rows of the table."""
    trial = TRIALS[name]
    for recipe, words in trial.recipes.items():
        figures: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        seconds = []
        for seed in range(seeds):
            run = f"{name}_{recipe}_{steps}_{seed}"
            told = [
                *words,
                f"data.dataset={name}",
                f"steps={steps}",
                f"seed={seed}",
                "log_every=50",
            ]
            whole = replace(read_recipe(recipe, told), save_every=steps, heldout_every=steps)
            train_timed(store, whole, run)
            seconds.append((read_record(store, run, CPU) or {})[str(steps)])
            for untrained in (True, False):
                figures[untrained].append(probes(store, run, name, trial, untrained))
        for untrained, found in figures.items():
            time = "" if untrained else f"{fmean(seconds):.0f}"
            kind = "untrained" if untrained else f"trained, {steps} steps"
            yield f"{recipe}, {kind}", *map(spread, zip(*found, strict=True)), time
        pairs = zip(figures[False], figures[True], strict=True)
        gains = [tuple(100 * (a - b) for a, b in zip(*pair, strict=True)) for pair in pairs]
        yield f"{recipe}, points gained", *map(gained, zip(*gains, strict=True)), ""


def spread(values: tuple[float, ...]) -> str:
    """Return the mean over the seeds, and the least and the greatest."""
    return f"{fmean(values):.1%} ({min(values):.1%} to {max(values):.1%})"


def gained(points: tuple[float, ...]) -> str:
    """Return the mean gain over the seeds, each beside its own untrained encoder, and the range."""
    return f"{fmean(points):+.1f} ({min(points):+.1f} to {max(points):+.1f})"


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("store")
    parser.add_argument("--only", choices=sorted(TRIALS), default="")
    parser.add_argument("--steps", type=int, help="in place of 1,500 for scenes, 600 for signs")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    store = open_store(given.store)
    for name in [given.only] if given.only else TRIALS:
        ingest_trial(store, given.data, name, Path(given.store) / "lists")
        samples = samples_of(store, name)
        labels = {about["label"] for about in samples.values()}
        print(f"\n{name}: {len(samples)} samples, {len(labels)} classes, {given.seeds} seeds\n")
        print("| encoder | kNN | linear probe | CPU seconds a run |\n| --- | --- | --- | --- |")
        for row in run_trial(store, name, given.steps or TRIALS[name].steps, given.seeds):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
