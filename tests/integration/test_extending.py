"""docs/extending.md holds: its own blocks are run, and what they add is used."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.column_codec import unpack_array
from pipelines.derive import derive
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.producers import PRODUCERS
from pipelines.verify import verify
from preprocessing.masks import MASKS, VISIBLE
from storage.fs import Store, open_store
from tests.integration.raw import make_images
from training.pretrain import pretrain
from training.recipe import read_recipe

PAGE = Path(__file__).resolve().parents[2] / "docs/extending.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Yield a store of photos while the page's own column and mask are added."""
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(compile(block, str(PAGE), "exec"), names)
    place = open_store(tmp_path / "store")
    raw = make_images(tmp_path / "raw", 16)
    ingest(place, [str(raw)], "photos", IngestSpec(modality="image"), Executor())
    yield place
    del PRODUCERS["sharpness"], MASKS["stripes"], VISIBLE["stripes"]


def test_the_column_is_derived_once_and_verified(store: Store, tmp_path: Path) -> None:
    asked = {"sharpness": {"step": 2}}
    assert derive(store, "photos", asked, Executor())["sharpness"]["computed"] == 16
    assert derive(store, "photos", asked, Executor())["sharpness"]["computed"] == 0
    assert verify(store, "photos")["damaged"] == []
    (sidecar,) = (tmp_path / "store").glob("datasets/photos/columns/sharpness-*/*/shard-000000.tar")
    with tarfile.open(sidecar) as tar:
        values = [unpack_array(tar.extractfile(member).read()) for member in tar]
    assert len(values) == 16
    assert all(value.shape == () and value.dtype == np.float32 and value > 0 for value in values)


def test_the_recipe_trains_with_the_mask(store: Store, tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    (tmp_path / "stripes_tiny.yaml").write_text(text)
    recipe = read_recipe(tmp_path / "stripes_tiny.yaml", ["steps=4"])
    summary = pretrain(store, recipe, run="stripes")
    assert summary["step"] == 4
    assert np.isfinite(summary["loss"])
