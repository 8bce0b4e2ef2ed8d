"""What a run says of its waiting: the same share in its summary and in the advice, and how fast its
steps would be alone.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.pictures import Pictures
from storage.fs import Store, open_store
from tests.integration.feed_sets import fill
from training import ceiling, loop, session
from training.pretrain import pretrain
from training.recipe import read_recipe
from training.runs import read_metrics

WORDS = [
    "data.dataset=image", "view.size=32", "model.patch=8", "model.width=24", "model.heads=2",
    "model.decoder_width=16", "steps=4", "batch=4", "log_every=1", "data.heldout=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder: Path = tmp_path_factory.mktemp("stalls")
    return fill(open_store(folder / "store"), folder / "raw")


def slow_down(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, seconds: float) -> None:
    real = getattr(place, name)

    def slowly(*given: Any) -> Any:
        time.sleep(seconds)
        return real(*given)

    monkeypatch.setattr(place, name, slowly)


def test_a_step_that_is_no_faster_is_told_without_a_promise() -> None:
    lines = [{"feed": {"advice": "step-bound."}}]
    said = session._advice(lines, rate=9.0, ceiling=8.0)
    assert said is not None
    assert said.endswith("is no faster than the 9.0 samples/s that the run made.")
    assert session._advice(lines, rate=9.0, ceiling=None) == "step-bound."


@pytest.mark.parametrize(
    ("place", "name", "seconds", "bound"),
    [(Pictures, "show", 0.15, "decode-bound"), (loop, "take_step", 2.0, "step-bound")],
)
def test_the_advice_is_about_the_share_of_the_summary(
    place: Any,
    name: str,
    seconds: float,
    bound: str,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow_down(monkeypatch, place, name, seconds)
    summary = pretrain(store, read_recipe("mae_tiny", WORDS), run=name)
    assert summary["data_advice"].startswith(f"{bound}: {summary['data_wait_share']:.0%} of the")


def test_the_ceiling_is_of_the_steps_and_not_of_the_feed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceiling, "SHARE", 1.0)
    slow_down(monkeypatch, Pictures, "show", 0.1)
    for module in (loop, ceiling):
        slow_down(monkeypatch, module, "take_step", 0.2)
    summary = pretrain(store, read_recipe("mae_tiny", WORDS), run="both")
    alone, made = summary["ceiling_samples_per_second"], summary["samples_per_second"]
    assert 1.3 * made < alone < 4 / 0.2, "4 samples a step"
    said = f"would reach {alone:.1f} samples/s; the run made {made:.1f}."
    assert summary["data_advice"].endswith(said)


def test_the_ceiling_changes_nothing_that_a_run_leaves(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = {}
    for share in (0.0, 1.0):
        monkeypatch.setattr(ceiling, "SHARE", share)
        run = f"share-{share:.0f}"
        summary = pretrain(store, read_recipe("mae_tiny", WORDS), run=run)
        assert (summary["ceiling_samples_per_second"] is None) == (share == 0)
        losses = [line["loss"] for line in read_metrics(store, run) if "loss" in line]
        left[share] = losses, store.read(f"runs/{run}/checkpoints/step-00000004.pt")
    assert left[0.0] == left[1.0]
