"""Every recipe: the small one trains, resumes, is probed and exported by the command; the full one
builds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from storage.fs import open_store
from tests.integration.recipe_runs import dataset, few_samples, headrace, run_recipe
from training.assemble import model_input
from training.checkpoints import read_checkpoint
from training.models.families import build_model
from training.recipe import RECIPES, list_recipes, read_recipe

STEPS = 50
TINY = [name for name in list_recipes() if name.endswith("_tiny")]
SHOWN = ("crossmae_tiny", "videomae2_tiny", "satmae_group_tiny")
"Those that `make test` runs, for fewer steps."
ALONE = ("mae_tiny", "mgmae_tiny", "cell_mae_tiny", "satmae_group_tiny")
"Those that are run where neither Ray nor Prefect can be imported, one of each modality."
BLOCKED = """
import sys
sys.modules.update(dict.fromkeys(("ray", "prefect")))
from tests.integration.recipe_runs import main
main()
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store; `dataset` fills it."""
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Make few samples of each dataset."""
    with few_samples():
        yield


@pytest.mark.parametrize("name", SHOWN)
def test_a_small_recipe_trains_resumes_and_is_probed(store: Path, name: str) -> None:
    run_recipe(store, name, 12)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TINY)
def test_every_small_recipe_trains_resumes_and_is_probed(store: Path, name: str) -> None:
    run_recipe(store, name, STEPS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_modalities_run_where_ray_and_prefect_are_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BLOCKED, str(tmp_path), *ALONE]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=RECIPES.parent, env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(ALONE)


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
