"""The feed of a recipe: mixtures in turns, resumed anywhere; what a dataset cannot give is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.executors import Executor
from pipelines.feed import Feed
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.recipe_feed import main_batch, main_stream, open_recipe
from storage.fs import Store, open_store
from tests.integration.raw import make_images, make_videos
from training.recipe import Recipe, read_recipe

MIXED = (
    "data.dataset=video", "data.mixture.0.dataset=image", "data.mixture.0.weight=2", "batch=4",
    "data.mixture.0.batch=6", "view.size=32", "data.mixture.0.view.size=32",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of labelled pictures and of clips without labels."""
    folder: Path = tmp_path_factory.mktemp("recipe_feed")
    store = open_store(folder / "store")
    made: dict[str, tuple[Path, dict[str, Any]]] = {
        "image": (make_images(folder / "image", 12), {"labels": "parent"}),
        "video": (make_videos(folder / "video", 5), {"frames": 8}),
    }
    for modality, (raw, values) in made.items():
        spec = IngestSpec(modality=modality, heldout=0.0, **values)
        ingest(store, [str(raw)], modality, spec, Executor())
    return store


def opened(store: Store, recipe: Recipe, start: int = 0, stop: int = 6) -> Feed:
    return open_recipe(
        store, recipe, start=start, stop=stop, rank=0, ranks=1, workers=0, kind="local"
    )


def test_a_recipe_mixes_clips_and_pictures_and_goes_on_anywhere(store: Store) -> None:
    recipe = read_recipe("mixed_tiny", MIXED)
    feed = opened(store, recipe)
    whole = list(feed)
    shapes = sorted(tuple(batch["pixels"].shape) for batch in whole)
    assert shapes == [(4, 3, 8, 32, 32)] * 2 + [(6, 3, 32, 32)] * 4
    # A picture has the tokens of one tubelet, hidden by its part's own ratio; a clip its tubes.
    for batch in whole:
        times = 4 if batch["pixels"].ndim == 5 else 1
        hidden = batch["masked"].shape[1]
        assert hidden + batch["visible"].shape[1] == 4 * times
        assert int(batch["masked"].max()) < 4 * times
    resumed = list(opened(store, recipe, start=2))
    for mine, other in zip(resumed, whole[2:], strict=True):
        assert all(torch.equal(mine[name], other[name]) for name in other)
    for batch in whole:
        main = main_batch(feed, batch)
        assert main["pixels"].ndim == 5
        assert "stream" not in main
    assert main_stream(feed).dataset == "video"
    assert [part["dataset"] for part in feed.fingerprints["mixture"]] == ["video", "image"]


def test_a_dataset_of_another_modality_is_refused_by_name(store: Store) -> None:
    with pytest.raises(ValueError, match=r"dataset video: holds video samples, .* is for image"):
        opened(store, read_recipe("mae_tiny", ["data.dataset=video"]))
    words = [*MIXED, "data.mixture.0.dataset=video"]
    with pytest.raises(ValueError, match=r"dataset video: holds video samples, .* is for image"):
        opened(store, read_recipe("mixed_tiny", words))


def test_a_target_of_labels_needs_labels(store: Store) -> None:
    with pytest.raises(ValueError, match="dataset video has no labelled samples"):
        opened(store, read_recipe("videomae2_labels_tiny", ["data.dataset=video"]))
