"""What every small recipe must bear, by the command: trained, its second half lost, resumed, probed
and handed on.

A small recipe says what it reads by `data.dataset`, and its datasets are made here from the
demo's own raw inputs; its columns are what `headrace derive --for` finds that it needs.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flows import demo_data
from flows.command import app
from flows.demo import CHAPTERS
from flows.recipes import needed_columns
from storage.fs import Store, open_store
from tests.integration.field_sets import FIELD_SETS
from training.checkpoints import list_checkpoints, read_checkpoint
from training.import_weights import load_exported
from training.recipe import RECIPES, read_recipe

MODALITIES = {"images": "image", "videos": "video", "cells": "microscopy", "tiles": "satellite"}
"The datasets of small recipes, each made by the demo's maker of that modality."


def headrace(*words: str, store: Path) -> dict[str, Any]:
    """Run the command in this process; returns what it prints as JSON."""
    done = CliRunner().invoke(app, [*words, "--store", str(store), "--direct", "--json"])
    assert done.exit_code == 0, f"{' '.join(words)}: {done.stderr}"
    return json.loads(done.stdout)


@contextmanager
def few_samples() -> Iterator[None]:
    """Let the demo make a fifth of what it makes for a person."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IMAGES_A_CLASS", "VIDEOS_A_CLASS", "TILES_A_CLASS"):
            patch.setattr(demo_data, name, max(getattr(demo_data, name) // 5, 4))
        yield


def dataset(store: Path, name: str) -> str:
    """Ingest a dataset of small recipes, once."""
    if name in FIELD_SETS and not (store / "datasets" / name).exists():
        words = FIELD_SETS[name](store / "raw" / name)
        headrace("ingest", str(store / "raw" / name), *words, "--dataset", name, store=store)
    elif not (store / "datasets" / name).exists():
        modality = MODALITIES[name]
        raw = demo_data.make_demo_data(store / "raw", modalities=(modality,))[modality]
        spec = CHAPTERS[modality].spec
        words = [w for key, value in spec.items() for w in (f"--{key.replace('_', '-')}", value)]
        asked = ("ingest", str(raw), "--modality", modality, "--dataset", name)
        headrace(*asked, *map(str, words), "--max-reject", "0.5", store=store)
    return name


def run_recipe(store: Path, name: str, steps: int) -> None:
    """Train, lose the second half, resume, probe, export."""
    recipe = read_recipe(name)
    data, *_ = (dataset(store, part.dataset) for part in (recipe.data, *recipe.data.mixture))
    if needed_columns(name, data, []):
        headrace("derive", data, "--for", name, store=store)
    run, place = f"{name}-{steps}", open_store(store)
    words = (name, f"steps={steps}", f"save_every={steps // 2}", "log_every=2", "--run", run)
    whole = headrace("pretrain", *words, store=store)
    lines = [json.loads(line) for line in place.read(f"runs/{run}/metrics.jsonl").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-5:]) < np.mean(losses[:3]), losses
    assert list_checkpoints(place, run) == [steps // 2, steps]
    trained = read_checkpoint(place, run)["model"]
    _lose(store / "runs" / run, steps)
    assert list_checkpoints(place, run) == [steps // 2]
    resumed = headrace("pretrain", *words, "--resume", store=store)
    assert resumed["loss"] == whole["loss"]
    again = read_checkpoint(place, run)["model"]
    assert all(np.array_equal(trained[n].numpy(), again[n].numpy()) for n in trained)
    probed = headrace("evaluate", run, "--dataset", data, "--untrained", store=store)
    assert 0 <= probed["accuracy"] <= 1
    assert probed["samples"] > 0
    _hand_on(store, place, run, steps)


def _lose(folder: Path, step: int) -> None:
    """Remove what a run wrote at its last step."""
    for lost in folder.rglob("*"):
        if f"{step:08d}" in lost.name or lost.name == "summary.json":
            shutil.rmtree(lost) if lost.is_dir() else lost.unlink()


def _hand_on(store: Path, place: Store, run: str, step: int) -> None:
    """Export a run, and load the files as another would."""
    folder = store / "exports" / run
    told = headrace("export", run, "--to", "headrace", "--output", str(folder), store=store)
    assert told["step"] == step
    loaded, wanted = load_exported(folder).model.state_dict(), read_checkpoint(place, run)["model"]
    assert loaded.keys() == wanted.keys()
    assert all(torch.equal(loaded[key], wanted[key]) for key in wanted)


def import_all() -> int:
    """Import every module that is not Ray's own; returns how many there are."""
    found = [
        path.relative_to(RECIPES.parent).with_suffix("")
        for package in ("preprocessing", "storage", "pipelines", "training")
        for path in sorted((RECIPES.parent / package).rglob("*.py"))
        if not path.name.startswith(("ray_", "__init__"))
    ]
    for path in found:
        importlib.import_module(".".join(path.parts))
    return len(found)


def main() -> None:
    """Run the recipes that the words name, in the folder that the first word names, where Ray and
    Prefect cannot be imported.
    """
    folder, *names = sys.argv[1:]
    assert import_all() > 100
    with few_samples():
        for name in names:
            run_recipe(Path(folder), name, 12)
    assert sys.modules["ray"] is sys.modules["prefect"] is None
    print(*names)
