"""A sample with impossible values, in a run from the store: named, passed over, lived through."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.keys import sample_id
from pipelines.recipe_feed import open_recipe
from storage.fs import Store, open_store
from training.checkpoints import list_checkpoints, read_checkpoint
from training.guard import DivergedError
from training.pretrain import pretrain
from training.recipe import Recipe, make_recipe, read_recipe
from training.runs import read_metrics, read_record
from training.skips import read_skips

WORDS = [
    "data.dataset=fields", "view.size=32", "model.patch=8", "model.width=24", "model.heads=2",
    "model.depth=2", "model.decoder_width=16", "model.decoder_depth=1", "steps=9", "batch=4",
    "log_every=1", "save_every=2", "heldout_every=9",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with twelve float fields; one holds numbers at the end of what float32 can hold."""
    folder: Path = tmp_path_factory.mktemp("fields")
    rng = np.random.default_rng(0)
    (folder / "raw").mkdir()
    for number in range(12):
        field = rng.normal(1000, 200, (3, 48, 48)).astype(np.float32)
        if number == 5:
            field = rng.uniform(1e38, 3e38, field.shape).astype(np.float32)
        tifffile.imwrite(folder / "raw" / f"f{number}.tif", field, photometric="minisblack")
    made = open_store(folder / "store")
    ingest(
        made,
        [str(folder / "raw")],
        "fields",
        IngestSpec(modality="microscopy", heldout=0.0),
        Executor(),
    )
    return made


def recipe_with(*words: str) -> Recipe:
    return read_recipe("cell_mae_tiny", [*WORDS, *words])


def test_a_poisoned_sample_is_named_and_passed_over(
    store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    summary = pretrain(store, recipe_with(), run="poisoned")
    skips = read_skips(store, "poisoned")
    assert len(skips) == summary["skipped"] == 3  # an epoch is three batches: once in each
    assert sorted(skip["step"] // 3 for skip in skips) == [0, 1, 2]
    for skip in skips:
        assert skip["back_to"] == skip["step"] // 2 * 2
        assert len(skip["samples"]) == 4
        worst, *others = skip["samples"]
        assert worst["loss"] == "nan" and worst["dataset"] == "fields"
        assert worst["key"] == skips[0]["samples"][0]["key"]
        assert all(float(sample["loss"]) < 10 for sample in others)
    said = capfd.readouterr().err
    assert f"step {skips[0]['step'] + 1}: the loss is nan" in said
    assert skips[0]["samples"][0]["key"] in said and ".tar/" in said
    assert np.isfinite([x["loss"] for x in read_metrics(store, "poisoned") if "loss" in x]).all()
    state = read_checkpoint(store, "poisoned")
    assert all(torch.isfinite(value).all() for value in state["model"].values())
    assert list_checkpoints(store, "poisoned")[-1] == 9


def test_any_past_batch_is_made_again_from_the_record(store: Store) -> None:
    pretrain(store, recipe_with("steps=4", "data.failures=0"), run="past")
    record = read_record(store, "past")
    assert record is not None
    recipe = make_recipe(record["recipe"])
    skip = read_skips(store, "past")[0]
    at = {"start": skip["step"], "stop": skip["step"] + 1, "rank": 0, "ranks": 1}
    batch = next(iter(open_recipe(store, recipe, **at, workers=0, kind="local")))
    keys = {sample_id(sample["key"]): sample["key"] for sample in skip["samples"]}
    assert set(batch["sample"].tolist()) == set(keys)
    high = [int(i) for i, x in zip(batch["sample"], batch["pixels"], strict=True) if x.max() > 1e37]
    assert [keys[i] for i in high] == [skip["samples"][0]["key"]]


def test_samples_that_fail_are_kept_with_the_run(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.uri, tmp_path / "store")
    copy = open_store(tmp_path / "store")
    shard = next(e.path for e in copy.list("datasets/fields") if e.path.endswith("000.tar"))
    whole = bytearray(copy.read(shard))
    whole[len(whole) // 2] ^= 1
    copy.write(shard, bytes(whole))
    summary = pretrain(copy, recipe_with("steps=3", "data.failures=2"), run="failing")
    failed = read_record(copy, "failing", "failed.json")
    assert failed is not None and len(failed) == 1
    assert all("000.tar" in error for error in failed.values())
    assert summary["failed_samples"] == 1


@pytest.mark.slow
def test_the_rule_does_not_depend_on_when_it_was_found(store: Store) -> None:
    pretrain(store, recipe_with("save_every=4"), run="seldom")
    pretrain(store, recipe_with("save_every=1"), run="often")
    first, second = (read_checkpoint(store, run)["model"] for run in ("seldom", "often"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    steps = [[skip["step"] for skip in read_skips(store, run)] for run in ("seldom", "often")]
    assert steps[0] == steps[1]


def test_it_gives_up_after_the_stated_number(store: Store) -> None:
    with pytest.raises(DivergedError, match=r"2 batches were passed over before, guard\.most"):
        pretrain(store, recipe_with("guard.most=2"), run="given-up")
    assert len(read_skips(store, "given-up")) == 2
