"""Every recipe: the small one trains, resumes and is probed by the command; the full one builds.

A small recipe says what it reads by `data.dataset`, and its datasets are made here from the
demo's own raw inputs; its columns are what `headrace derive --for` finds that it needs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
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
from storage.fs import open_store
from tests.integration.field_sets import FIELD_SETS
from training.assemble import model_input
from training.checkpoints import list_checkpoints, read_checkpoint
from training.models.families import build_model
from training.recipe import list_recipes, read_recipe

STEPS = 50
MODALITIES = {"images": "image", "videos": "video", "cells": "microscopy", "tiles": "satellite"}
"The datasets of small recipes, each made by the demo's maker of that modality."
TINY = [name for name in list_recipes() if name.endswith("_tiny")]
SHOWN = ("crossmae_tiny", "videomae2_tiny", "satmae_group_tiny")
"Those that `make test` runs, for fewer steps."


def headrace(*words: str, store: Path) -> dict[str, Any]:
    """Run the command in this process; returns what it prints as JSON."""
    done = CliRunner().invoke(app, [*words, "--store", str(store), "--direct", "--json"])
    assert done.exit_code == 0, f"{' '.join(words)}: {done.stderr}"
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store; `dataset` fills it."""
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture(scope="module", autouse=True)
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
    """Train, lose the second half, resume, probe: what every small recipe must bear."""
    recipe = read_recipe(name)
    data, *_ = (dataset(store, part.dataset) for part in (recipe.data, *recipe.data.mixture))
    if needed_columns(name, data, []):
        headrace("derive", data, "--for", name, store=store)
    words = (name, f"steps={steps}", f"save_every={steps // 2}", "log_every=2", "--run", name)
    whole = headrace("pretrain", *words, store=store)
    place = open_store(store)
    lines = [json.loads(line) for line in place.read(f"runs/{name}/metrics.jsonl").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-5:]) < np.mean(losses[:3]), losses
    assert list_checkpoints(place, name) == [steps // 2, steps]
    trained = read_checkpoint(place, name)["model"]
    for lost in (store / "runs" / name).rglob("*"):
        if f"{steps:08d}" in lost.name or lost.name == "summary.json":
            shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    assert list_checkpoints(place, name) == [steps // 2]
    resumed = headrace("pretrain", *words, "--resume", store=store)
    assert resumed["loss"] == whole["loss"]
    again = read_checkpoint(place, name)["model"]
    assert all(np.array_equal(trained[n].numpy(), again[n].numpy()) for n in trained)
    probed = headrace("evaluate", name, "--dataset", data, "--untrained", store=store)
    assert 0 <= probed["accuracy"] <= 1
    assert probed["samples"] > 0


@pytest.mark.parametrize("name", SHOWN)
def test_a_small_recipe_trains_resumes_and_is_probed(store: Path, name: str) -> None:
    run_recipe(store, name, 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TINY if name not in SHOWN])
def test_every_small_recipe_trains_resumes_and_is_probed(store: Path, name: str) -> None:
    run_recipe(store, name, STEPS)


@pytest.mark.slow
def test_a_second_stage_begins_with_the_encoder_of_the_first(store: Path, tmp_path: Path) -> None:
    dataset(store, "videos")
    headrace("pretrain", "videomae2_tiny", "steps=2", "--run", "stage1", store=store)
    exported = str(tmp_path / "stage1")
    headrace("export", "stage1", "--to", "headrace", "--output", exported, store=store)
    # One step at a rate too small to be seen.
    words = ("videomae2_labels_tiny", "steps=1", "optim.lr=1e-12", f"init={exported}")
    headrace("pretrain", *words, "--run", "stage2", store=store)
    place = open_store(store)
    first, second = (read_checkpoint(place, run)["model"] for run in ("stage1", "stage2"))
    encoder = [name for name in first if name.startswith("encoder.")]
    assert all(torch.allclose(first[n], second[n], atol=1e-6) for n in encoder)
    remembered = json.loads(place.read("runs/stage2/run.json"))["input"]["init"]
    assert remembered["loaded"] == len(encoder)
    assert remembered["fresh"] == 2  # the weight and the bias of the head


PAPERS = {
    "mae": (329_239_296, 303_099_904),
    "colormae": (111_655_680, 85_647_360),
    "videomae": (94_210_944, 86_227_200),
    "mgmae": (94_210_944, 86_227_200),
    "mgm": (94_210_944, 86_227_200),
    "mixed": (94_210_944, 86_227_200),
    "crossmae": (None, 85_645_824),  # MAE's encoder without its last norm
    "mae_st": (None, 304_096_256),  # MAE's encoder, tubelets and learned positions
    "videomae2": (None, 1_011_610_752),  # ViT-g: "1 billion"
    "slide_mae": (111_655_680, 85_647_360),
    "fgmae_msi": (None, 85_647_360 + 10 * 256 * 768),  # ten bands more than MAE's three
    "fgmae_sar": (None, 85_647_360 - 256 * 768),
    "satmae_group": (None, 303_099_904 + (10 * 64 - 3 * 256 + 2) * 1024),  # three embeddings
    "satmae_time": (329_239_296, 303_099_904),
    "cell_mae": (None, 24 * (12 * 1024**2 + 9 * 1024 + 4 * 64) + (6 * 64 + 4) * 1024),
    "ca_mae": (None, 12 * (12 * 384**2 + 9 * 384 + 4 * 64) + (256 + 4) * 384),
}
"Parameters that papers and released code have: of the whole network, of its encoder."
DECODERS = ("decoder", "mask_token", "head", "wfm", "dec_norms")


def built(name: str) -> torch.nn.Module:
    """Return a recipe's network without memory, for a sample such as it is made for."""
    recipe = read_recipe(name)
    names = [*recipe.data.bands, *(band for group in recipe.model.groups for band in group)]
    channels = len(names) or {"microscopy": 6, "satellite": 13}.get(recipe.modality, 3)
    edge = recipe.model.patch
    widths = {
        target.kind: {"pixels": 0, "ndi": 3 * edge**2, "label": 400, "hog_scales": 594}.get(
            target.kind, channels * target.bins * max(edge // target.cell, 1) ** 2
        )
        for target in recipe.target
    }
    shape = [channels, recipe.view.size, recipe.view.size]
    if recipe.modality == "video":
        shape.insert(1, 16)
    about = {"channels": names, "shape": shape, "widths": widths}
    with torch.device("meta"):
        return build_model(recipe.model, model_input(recipe, about))


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_builds_at_its_size(name: str) -> None:
    sizes = {n: p.numel() for n, p in built(name).named_parameters() if p.requires_grad}
    encoder = sum(n for key, n in sizes.items() if not any(word in key for word in DECODERS))
    whole, alone = PAPERS.get(name, (None, None))
    assert whole in (None, sum(sizes.values()))
    assert alone in (None, encoder)
    if not name.endswith("_tiny") and not name.startswith("cifar"):
        assert encoder > 2e7
