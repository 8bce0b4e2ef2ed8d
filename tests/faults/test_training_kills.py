"""T6: a run that was killed, whenever and however often, ends as one that never was (G9)."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest
import torch

from storage.fs import open_store
from tests.faults.torture import Fault, Watch
from tests.faults.training_runs import (
    RUNS,
    STEPS,
    batches_of,
    equal,
    left_by,
    make_poisoned_store,
    make_store,
    on_ranks,
    train_run,
)
from tests.faults.zygote import Zygote
from training.checkpoints import list_checkpoints, read_checkpoint
from training.skips import read_skips


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Path:
    """A store with three datasets, and a run of each that nothing interrupted."""
    folder = tmp_path_factory.mktemp("training")
    assert zygote.run(make_store, folder).code == 0
    for kind in RUNS:
        outcome = zygote.run(train_run, folder, kind, f"{kind}-whole", 0, [])
        assert outcome.code == 0, outcome.error
    return folder


@pytest.mark.parametrize("kind", RUNS)
def test_killed_at_random_steps_and_resumed(kind: str, made: Path, zygote: Zygote) -> None:
    rng = random.Random(kind)
    for kill in [*(rng.randint(1, STEPS - 1) for _ in range(2)), 0]:
        outcome = zygote.run(train_run, made, kind, f"{kind}-killed", kill, [])
        assert outcome.code in (0, -signal.SIGKILL), outcome.error
    whole, killed = left_by(made, f"{kind}-whole"), left_by(made, f"{kind}-killed")
    assert equal(whole, killed)
    assert batches_of(made, f"{kind}-whole") == batches_of(made, f"{kind}-killed")


SHORT = ["steps=4", "save_every=1", "keep=1", "heldout_every=2", "log_every=1"]


def kill_while_writing(made: Path, zygote: Zygote, at: int) -> None:
    """Die before the `at`-th call that changes a file of the run, go on, and compare."""
    run = f"call-{at}"
    watch = Watch(made / "store" / "runs" / run, Fault(at, "kill"))
    died = zygote.run(train_run, made, "image", run, 0, SHORT, watch=watch)
    assert died.code == -signal.SIGKILL, died.error
    resumed = zygote.run(train_run, made, "image", run, 0, SHORT)
    assert resumed.code == 0, resumed.error
    assert equal(left_by(made, "short"), left_by(made, run))
    temporary = [p for p in (made / "store" / "runs" / run).rglob("*") if p.name[0] == "."]
    assert not temporary
    shutil.rmtree(made / "store" / "runs" / run)


@pytest.fixture(scope="module")
def calls(made: Path, zygote: Zygote) -> int:
    """Return how many calls of a short run change its files."""
    watch = Watch(made / "store" / "runs" / "short")
    outcome = zygote.run(train_run, made, "image", "short", 0, SHORT, watch=watch)
    assert outcome.code == 0, outcome.error
    return outcome.calls


def test_killed_while_writing(made: Path, zygote: Zygote, calls: int) -> None:
    assert calls > 40
    for at in (calls // 5, calls // 2, calls - 3):
        kill_while_writing(made, zygote, at)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_every_call_that_writes(made: Path, zygote: Zygote, calls: int) -> None:
    for at in range(1, calls + 1):
        kill_while_writing(made, zygote, at)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", RUNS)
def test_killed_after_every_step(kind: str, made: Path, zygote: Zygote) -> None:
    run = f"{kind}-often"
    for kill in range(1, STEPS):
        assert zygote.run(train_run, made, kind, run, kill, []).code == -signal.SIGKILL
    assert zygote.run(train_run, made, kind, run, 0, []).code == 0
    assert equal(left_by(made, f"{kind}-whole"), left_by(made, run))
    assert batches_of(made, f"{kind}-whole") == batches_of(made, run)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=SLOW)])
def test_asked_to_stop_it_saves_and_goes_on(
    number: signal.Signals, made: Path, zygote: Zygote
) -> None:
    run = f"stopped-{number.name}"
    stopped = zygote.run(train_run, made, "image", run, 5, [], number)
    assert "saved at step 5; add --resume" in stopped.error
    assert list_checkpoints(open_store(made / "store"), run) == [4, 5]
    assert zygote.run(train_run, made, "image", run, 0, []).code == 0
    whole, again = left_by(made, "image-whole"), left_by(made, run)
    assert equal(whole, again)


@pytest.mark.slow
def test_all_ranks_stop_where_one_is_asked_to(made: Path, zygote: Zygote) -> None:
    run = "one-asked"
    stopped = zygote.run(on_ranks, 2, made, "image", run, 5, [], signal.SIGTERM)
    assert "saved at step 5; add --resume" in stopped.error
    assert list_checkpoints(open_store(made / "store"), run) == [4, 5]
    for name in (run, "none-asked"):
        ended = zygote.run(on_ranks, 2, made, "image", name, 0, [])
        assert (ended.code, ended.result) == (0, [0]), ended.error
    assert equal(left_by(made, "none-asked"), left_by(made, run))


def test_ranks_come_and_go(made: Path, zygote: Zygote) -> None:
    run = "ranks"
    assert zygote.run(on_ranks, 2, made, "image", run, 3, []).code == -signal.SIGKILL
    assert zygote.run(train_run, made, "image", run, 7, []).code == -signal.SIGKILL
    ended = zygote.run(on_ranks, 2, made, "image", run, 0, [])
    assert (ended.code, ended.result) == (0, [0]), ended.error
    assert batches_of(made, run) == batches_of(made, "image-whole")
    whole, mixed = left_by(made, "image-whole"), left_by(made, run)
    for one, two in zip(whole["figures"], mixed["figures"], strict=True):
        assert one.keys() == two.keys()
        assert all(one[n] == pytest.approx(two[n], rel=1e-3) for n in one if "dead" not in n)


@pytest.mark.parametrize(("ranks", "accumulate"), [pytest.param(2, 2, marks=SLOW), (4, 1)])
def test_ranks_times_accumulation_is_one_number(
    ranks: int, accumulate: int, made: Path, zygote: Zygote
) -> None:
    one, many = "accumulated", f"accumulated-{ranks}"
    if not list_checkpoints(open_store(made / "store"), one):
        assert zygote.run(train_run, made, "image", one, 0, ["accumulate=4"]).code == 0
    ended = zygote.run(on_ranks, ranks, made, "image", many, 0, [f"accumulate={accumulate}"])
    assert (ended.code, ended.result) == (0, [0] * (ranks - 1)), ended.error
    first, second = (left_by(made, run)["state"]["model"] for run in (one, many))
    for name, value in first.items():
        if name.endswith("qkv.bias"):
            continue  # a key bias moves no attention: its gradient is rounding, which Adam enlarges
        torch.testing.assert_close(second[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_ranks_roll_back_together_and_also_when_killed(tmp_path: Path, zygote: Zygote) -> None:
    """A poisoned sample is one rank's, its loss and name are everybody's."""
    assert zygote.run(make_poisoned_store, tmp_path).code == 0
    words = ["steps=6"]
    for run, kills in (("whole", [0]), ("killed", [3, 4, 0])):
        for kill in kills:
            ended = zygote.run(on_ranks, 2, tmp_path, "field", run, kill, words)
            assert ended.code == (-signal.SIGKILL if kill else 0), ended.error
    assert zygote.run(train_run, tmp_path, "field", "alone", 0, words).code == 0
    store = open_store(tmp_path / "store")
    found = {run: read_skips(store, run) for run in ("whole", "killed", "alone")}
    assert len(found["whole"]) == 3  # epochs of two batches
    for skips in found.values():
        assert [s["step"] for s in skips] == [s["step"] for s in found["whole"]]
        assert all(s["samples"][0]["loss"] == "nan" for s in skips)
        assert {s["samples"][0]["key"].split("-")[0] for s in skips} == {"f5"}
        assert all(len(s["samples"]) == 4 and s["reason"] == "the loss is nan" for s in skips)
    states = [read_checkpoint(store, run)["model"] for run in ("whole", "killed")]
    assert equal(*states)
