"""A run from the store: trained, killed, resumed, probed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from storage.fs import Store, open_store
from training import pretrain as entry
from training.checkpoints import CheckpointError, list_checkpoints, read_checkpoint
from training.evaluate import evaluate
from training.feeds import open_heldout_of, open_recipe
from training.frozen import fresh_trainer
from training.heldout import look
from training.pretrain import RunError, pretrain
from training.recipe import Recipe, read_recipe
from training.runs import read_metrics, read_run
from training.state import kept_weights

WORDS = [
    "data.dataset=toys", "view.size=32", "model.patch=8", "model.width=24", "model.heads=2",
    "model.decoder_width=16", "steps=6", "batch=8", "log_every=1", "save_every=2",
    "heldout_every=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with 60 labelled pictures of stripes, two classes."""
    folder: Path = tmp_path_factory.mktemp("toys")
    rng = np.random.default_rng(0)
    for number in range(60):
        kind = ("rows", "columns")[number % 2]
        wave = 120 + 80 * np.sin(np.arange(40) * rng.uniform(0.5, 1.5))
        image = np.broadcast_to(wave, (40, 40)) if kind == "columns" else np.tile(wave, (40, 1)).T
        image = np.clip(image[..., None] + rng.normal(0, 10, (40, 40, 3)), 0, 255).astype(np.uint8)
        (folder / "raw" / kind).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "raw" / kind / f"{number}.png"), image)
    made = open_store(folder / "store")
    spec = IngestSpec(modality="image", labels="parent", heldout=0.2)
    ingest(made, [str(folder / "raw")], "toys", spec, Executor())
    return made


@pytest.fixture
def recipe() -> Recipe:
    return read_recipe("mae_tiny", WORDS)


def weights(store: Store, run: str) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(store, run)["model"])


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def test_killed_and_resumed_is_as_never_stopped(
    store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(store, recipe, run="whole")

    def kill(what: str, done: int, total: int) -> None:
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        pretrain(store, recipe, run="halves", progress=kill)
    assert list_checkpoints(store, "halves") == [2, 4]
    resumed = pretrain(store, recipe, run="halves", resume=True)
    first, second = weights(store, "whole"), weights(store, "halves")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert resumed["loss"] == whole["loss"]
    assert resumed["heldout_loss"] == whole["heldout_loss"]
    lines = [json.loads(line) for line in store.read("runs/halves/metrics.jsonl").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_is_not_trained_again(
    store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = pretrain(store, recipe, run="once")
    monkeypatch.setattr(entry, "open_recipe", None)
    assert pretrain(store, recipe, run="once", resume=True) == done
    with pytest.raises(RunError, match="Add --resume"):
        pretrain(store, recipe, run="once")


def test_a_run_keeps_its_recipe(store: Store, recipe: Recipe) -> None:
    pretrain(store, recipe, run="kept")
    other = read_recipe("mae_tiny", [*WORDS, "mask.ratio=0.5"])
    with pytest.raises(RunError, match=r"mask\.ratio=0\.75, not 0\.5"):
        pretrain(store, other, run="kept", resume=True)


def test_a_run_without_a_checkpoint_begins_anew(store: Store, recipe: Recipe) -> None:
    def kill(what: str, done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        pretrain(store, recipe, run="retried", progress=kill)
    assert list_checkpoints(store, "retried") == []
    other = read_recipe("mae_tiny", [*WORDS, "mask.ratio=0.5"])
    pretrain(store, other, run="retried")
    assert json.loads(store.read("runs/retried/run.json"))["recipe"]["mask"]["ratio"] == 0.5
    assert pretrain(store, other, run="retried", resume=True)["step"] == 6


def test_a_run_tells_where_it_comes_from(store: Store, recipe: Recipe) -> None:
    pretrain(store, recipe, run="told")
    record = json.loads(store.read("runs/told/run.json"))
    assert record["provenance"]["dataset"] == "toys"
    assert record["recipe"]["data"]["snapshot"] == record["provenance"]["snapshot"] == 1
    assert len(record["provenance"]["fingerprint"]) == 64
    assert store.read("runs/told/pictures/step-00000006.png").startswith(b"\x89PNG")


def test_probes_are_kept_with_the_run(store: Store, recipe: Recipe) -> None:
    pretrain(store, recipe, run="probed")
    found = evaluate(store, "probed", "toys", untrained=True)
    assert found["step"] == 6
    assert found["samples"] + found["queries"] >= 60
    assert 0.0 <= found["accuracy"] <= 1.0
    assert json.loads(store.read("runs/probed/probes/toys-knn.json")) == found


def test_a_run_with_an_average_is_judged_by_it(store: Store) -> None:
    averaged = read_recipe("mae_tiny", [*WORDS, "ema=0.5", "optim.lr=0.05"])
    summary = pretrain(store, averaged, run="averaged")
    trainer = fresh_trainer(read_run(store, "averaged"), torch.device("cpu"))
    at = {"rank": 0, "ranks": 1, "start": 0, "stop": 1, "workers": 0, "kind": "local"}
    feed = open_recipe(store, averaged, **at)
    state, losses = read_checkpoint(store, "averaged"), []
    for kept in (kept_weights(state), state["model"]):
        trainer.model.load_state_dict(kept)
        found = look(trainer, open_heldout_of(store, feed), averaged.data.heldout)
        losses.append(found["heldout_loss"])
    feed.close()
    assert summary["heldout_loss"] == losses[0] != losses[1]


def test_two_ranks_train_as_one_that_accumulates(store: Store) -> None:
    one = read_recipe("mae_tiny", [*WORDS, "accumulate=2"])
    pretrain(store, one, run="one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "training.pretrain", "mae_tiny", *WORDS, "--store", store.uri]
    folder = Path(entry.__file__).parent.parent
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--run-name", "two"], cwd=folder, env=settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 6
    first, second = weights(store, "one"), weights(store, "two")
    for name, value in first.items():
        other = second[name]
        if name.endswith("qkv.bias"):
            # A key bias moves no attention: its gradient is rounding alone, which Adam enlarges.
            value[len(value) // 3 : 2 * len(value) // 3] = 0
            other[len(value) // 3 : 2 * len(value) // 3] = 0
        torch.testing.assert_close(other, value, rtol=1e-4, atol=1e-5)


def test_a_continued_run_is_the_longer_one(store: Store) -> None:
    """Under the infinite schedule, from the checkpoint before it anneals."""
    words = [*WORDS, "optim.schedule=infinite", "save_every=100", "keep=1"]
    short = ["steps=8", "optim.infinite.ends=[2, 3, 5]"]
    long = ["steps=12", "optim.infinite.ends=[2, 3, 10]"]
    pretrain(store, read_recipe("mae_tiny", [*words, *short]), run="short")
    assert list_checkpoints(store, "short") == [5, 8]
    pretrain(store, read_recipe("mae_tiny", [*words, *long]), run="long")
    more = read_recipe("mae_tiny", [*words, *long, "begin.run=short"])
    pretrain(store, more, run="continued")
    first, second = weights(store, "long"), weights(store, "continued")
    assert all(torch.equal(first[name], second[name]) for name in first)
    lines = {run: read_metrics(store, run) for run in ("long", "continued")}
    losses = {run: [x["loss"] for x in found if "loss" in x] for run, found in lines.items()}
    assert losses["continued"] == losses["long"][5:]
    record = json.loads(store.read("runs/continued/run.json"))
    assert record["recipe"]["begin"] == {"run": "short", "step": 5, "count": "on"}
    anew = read_recipe("mae_tiny", [*words, *short, "begin.run=short", "begin.count=anew"])
    pretrain(store, anew, run="anew")
    rates = [x["lr"] for x in read_metrics(store, "anew") if "lr" in x]
    assert len(rates) == 8 and rates[:4] == [pytest.approx(1e-4)] * 4
    gone = read_recipe("mae_tiny", [*words, *short, "begin.run=short", "begin.step=7"])
    with pytest.raises(CheckpointError, match="no checkpoint of step 7"):
        pretrain(store, gone, run="nowhere")
    done = read_recipe("mae_tiny", [*words, "steps=5", "begin.run=short", "begin.step=5"])
    with pytest.raises(ValueError, match=r"steps is 5, begin\.step 5"):
        pretrain(store, done, run="nowhere")


def test_the_log_shows_whether_it_learns(store: Store) -> None:
    summary = pretrain(store, read_recipe("mae_tiny", [*WORDS, "data.probe=40"]), run="signs")
    lines = read_metrics(store, "signs")
    looks = [line for line in lines if "heldout_loss" in line]
    assert [line["step"] for line in looks] == [3, 6]
    for line in looks:
        assert 1 <= line["effective_rank"] <= 13 and line["token_variance"] > 0
        assert 0 <= line["knn_accuracy"] <= 1 and line["error_low"] > 0
    steps = [line for line in lines if "loss" in line]
    assert all(0 < line["mfu"] < 1.5 and 0 <= line["data_wait_share"] <= 1 for line in steps)
    proof = next(line["epoch_proof"] for line in lines if "epoch_proof" in line)
    assert proof.startswith("epoch 0: 40 samples in 5 batches, each once and in order")
    assert "time is spent waiting for data" in summary["data_advice"]
    assert summary["best_heldout_loss"] == min(line["heldout_loss"] for line in looks)
    assert summary["epochs_proven"] == 1 and summary["skipped"] == 0
    assert json.loads(store.read("runs/signs/summary.json")) == summary
    record = json.loads(store.read("runs/signs/checkpoints/step-00000006.json"))
    assert record["about"]["batches"] == [0, 6] and record["about"]["snapshot"] == 1
    assert record["heldout_loss"] == looks[-1]["heldout_loss"]
    assert any("tfevents" in entry.path for entry in store.list("runs/signs/tensorboard"))


WITHOUT = """
import json, sys
for name in ("ray", "prefect"):
    sys.modules[name] = None
from storage.fs import open_store
from training.evaluate import evaluate
from training.pretrain import pretrain
from training.recipe import read_recipe
store, words = open_store(sys.argv[1]), sys.argv[2:]
summary = pretrain(store, read_recipe("mae_tiny", words), run="alone")
found = evaluate(store, "alone", "toys", probe="linear", untrained=True)
assert sys.modules["ray"] is sys.modules["prefect"] is None
assert not [name for name in sys.modules if name.startswith(("ray.", "prefect."))]
print(json.dumps([summary["step"], found["samples"]]))
"""


def in_a_process(*words: str) -> subprocess.CompletedProcess[str]:
    folder = Path(entry.__file__).parent.parent
    command = [sys.executable, *words]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)


def test_all_of_it_runs_without_ray_and_prefect(store: Store) -> None:
    done = in_a_process("-c", WITHOUT, store.uri, *WORDS)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0] == 6


@pytest.mark.slow
def test_a_user_mistake_and_a_stop_give_no_traceback(store: Store) -> None:
    begin = ["-m", "training.pretrain", "mae_tiny", *WORDS, "--store", store.uri, "--run-name"]
    wrong = in_a_process(*begin, "wrong", "optim.speed=1")
    assert wrong.returncode == 1 and wrong.stderr.startswith("headrace: optim.speed is unknown")
    command = [sys.executable, *begin, "stopped", "steps=100000"]
    folder = Path(entry.__file__).parent.parent
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    while not list_checkpoints(store, "stopped"):
        time.sleep(0.1)
    process.terminate()
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in told
    last = list_checkpoints(store, "stopped")[-1]
    assert f"run stopped: saved at step {last}; add --resume to continue" in told
