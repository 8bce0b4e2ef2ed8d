"""What a run says of its waiting: the same share in its summary and in the advice."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.pictures import Pictures
from storage.fs import Store, open_store
from tests.integration.feed_sets import fill
from training import loop
from training.pretrain import pretrain
from training.recipe import read_recipe

WORDS = [
    "data.dataset=image", "view.size=32", "model.patch=8", "model.width=24", "model.heads=2",
    "model.decoder_width=16", "steps=4", "batch=4", "log_every=1", "data.heldout=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder: Path = tmp_path_factory.mktemp("stalls")
    return fill(open_store(folder / "store"), folder / "raw")


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
    real = getattr(place, name)

    def slowly(*given: Any) -> Any:
        time.sleep(seconds)
        return real(*given)

    monkeypatch.setattr(place, name, slowly)
    summary = pretrain(store, read_recipe("mae_tiny", WORDS), run=name)
    assert summary["data_advice"].startswith(f"{bound}: {summary['data_wait_share']:.0%} of the")
