"""Probes of a run: near copies are never on both sides, and the result says how sure it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from preprocessing.videos import encode_clip
from storage.fs import Store, open_store
from training.assemble import make_trainer
from training.checkpoints import write_checkpoint
from training.evaluate import evaluate
from training.ranks import Place
from training.recipe import read_recipe, resolve
from training.runs import read_record, write_record

VIDEOS, CLIPS, EDGE = 8, 4, 32
WORDS = [
    "data.dataset=clips", "view.size=32", "model.patch=8", "model.width=24", "model.heads=2",
    "model.depth=2", "model.decoder_width=16", "model.decoder_depth=1", "batch=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with videos of still noise, whose labels nothing in them tells, and an untrained run.

    A clip is like the other clips of its video, and like nothing else.
    """
    folder: Path = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for number in range(VIDEOS):
        place = folder / "raw" / ("dog", "cat")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        still = rng.integers(0, 255, (1, EDGE // 8, EDGE // 8, 3), np.uint8)
        frames = still.repeat(8, 1).repeat(8, 2).repeat(4 * CLIPS, 0)
        (place / f"{number}.mp4").write_bytes(encode_clip(frames, 8.0))
    made = open_store(folder / "store")
    spec = IngestSpec(modality="video", labels="parent", frames=4, heldout=0.0)
    ingest(made, [str(folder / "raw")], "clips", spec, Executor())
    recipe = read_recipe("videomae_tiny", WORDS)
    about = {"channels": [], "shape": [3, 4, EDGE, EDGE], "stats": {}, "widths": {"pixels": 0}}
    trainer = make_trainer(recipe, about, Place(0, 1, torch.device("cpu")))
    write_record(
        made, "run", "run.json", {"name": "run", "recipe": resolve(recipe), "input": about}
    )
    write_checkpoint(made, "run", 1, {"step": 1, "model": trainer.model.state_dict()}, keep=1)
    return made


@pytest.mark.parametrize("probe", ["knn", "linear", "attentive"])
def test_clips_of_a_video_do_not_answer_for_each_other(store: Store, probe: str) -> None:
    """With its video among the taught ones every clip would be named rightly."""
    found = evaluate(store, "run", "clips", probe=probe, untrained=probe == "knn")
    assert (found["samples"], found["groups"], found["classes"]) == (VIDEOS * CLIPS, VIDEOS, 2)
    assert found["accuracy"] < 0.9
    assert found["low"] <= found["accuracy"] <= found["high"]
    assert len(found["seeds"]) == (1 if probe == "knn" else 3)
    if probe == "knn":
        assert found["untrained_low"] <= found["untrained_accuracy"] <= found["untrained_high"]
    assert read_record(store, "run", f"probes/clips-{probe}.json") == found


def test_a_test_set_of_the_same_videos_asks_nothing(store: Store) -> None:
    with pytest.raises(ValueError, match="every sample of clips comes from a source that clips"):
        evaluate(store, "run", "clips", test="clips")


def test_an_unknown_run_is_named(store: Store) -> None:
    with pytest.raises(ValueError, match="run nobody: there is none"):
        evaluate(store, "nobody", "clips")
