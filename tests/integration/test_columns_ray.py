"""Stored masks are the online ones on Ray too, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from pipelines.derive import derive
from pipelines.executors import Executor
from pipelines.feed import open_feed
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.stream import StreamConfig
from preprocessing.masks import MaskConfig
from preprocessing.targets import TargetConfig
from preprocessing.views import ViewConfig
from storage.fs import Store, open_store
from tests.integration.raw import make_videos

pytestmark = pytest.mark.ray
STOP = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store of clips; Ray is left when all is done."""
    folder = tmp_path_factory.mktemp("columns_ray")
    store = open_store(folder / "store")
    raw: Path = make_videos(folder / "raw", 4)
    spec = IngestSpec(modality="video", frames=8, shard_size=8192)
    ingest(store, [str(raw)], "video", spec, Executor())
    yield store
    ray.shutdown()


@pytest.mark.parametrize(
    ("mask", "values"),
    [
        (MaskConfig(kind="mgmae", ratio=0.7, draws=4), {"frozen_views": 2}),
        pytest.param(MaskConfig(kind="tube", ratio=0.6, draws=3), {}, marks=pytest.mark.slow),
        pytest.param(
            MaskConfig(kind="mgm", ratio=0.7, draws=2, source="motion"),
            {"frozen_views": 1},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["mgmae", "tube", "mgm"],
)
def test_stored_masks_on_ray_give_the_batches_of_online_ones(
    store: Store, mask: MaskConfig, values: dict[str, Any]
) -> None:
    streams = [
        StreamConfig(
            dataset="video",
            view=ViewConfig(size=48),
            mask=replace(mask, made=made),
            targets=(TargetConfig(kind="pixels"),),
            patch=16,
            tubelet=2,
            batch=4,
            seed=5,
            lanes=4,
            **values,
        )
        for made in ("online", "column")
    ]
    for stream in streams:
        asked = {name: spec.parameters for name, spec in stream.needed_columns().items()}
        derive(store, "video", asked, Executor())
    online = list(open_feed(store, streams[0], stop=STOP))
    stored = list(open_feed(store, streams[1], stop=STOP, kind="ray"))
    assert len(online) == STOP
    for left, right in zip(online, stored, strict=True):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
