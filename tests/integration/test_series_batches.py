"""Series in batches: every picture with its own date, chosen by seed, epoch and sample alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from flows.demo_tiles import BANDS, SIZE, encode_tile
from pipelines.executors import Executor
from pipelines.feed import open_feed
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.recipe_stream import stream_of
from storage.fs import Store, open_store
from training.recipe import read_recipe

DAYS = [date(2019, 1, 5), date(2020, 6, 17), date(2021, 12, 24), date(2022, 3, 3)]
SCENES = 4


def store_of(folder: Path) -> Store:
    """Return a store of four scenes on four days; each picture's level says scene and day."""
    (folder / "raw").mkdir()
    for scene in range(SCENES):
        for number, day in enumerate(DAYS):
            level = 1000 * (scene + 1) + 10 * (number + 1)
            bands = np.full((len(BANDS), SIZE, SIZE), level, np.uint16)
            bands += np.arange(len(BANDS), dtype=np.uint16)[:, None, None]
            path = folder / "raw" / f"place{scene}_{day:%Y%m%d}.tif"
            path.write_bytes(encode_tile(bands, (scene, 0), day))
    pattern = r"(?P<scene>place\d)_(?P<date>\d{8})\.tif$"
    spec = IngestSpec(modality="satellite", pattern=pattern, heldout=0.0)
    store = open_store(folder / "store")
    ingest(store, [str(folder / "raw")], "series", spec, Executor(kind="direct", workers=1))
    return store


def test_places_with_too_few_dates_are_told(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    for dates, told in ((4, ""), (5, "; 16 show a date twice, their place has too few")):
        stream = replace(stream_of(read_recipe("satmae_time_tiny", ["batch=4"])), dates=dates)
        for workers in (0, 1):
            feed = open_feed(store, stream, stop=4, workers=workers)
            assert len(list(feed)) == 4
            feed.close()
            (proof,) = feed.proofs
            assert f"in order; 0 replaced{told}; 0 left out" in str(proof)


def batches(store: Store, workers: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Return the batches of two epochs."""
    recipe = read_recipe("satmae_time_tiny", ["batch=4", f"seed={seed}"])
    feed = open_feed(store, stream_of(recipe), start=0, stop=8, workers=workers)
    try:
        return list(islice(iter(feed), 8))
    finally:
        feed.close()


def test_every_picture_of_a_series_comes_with_its_date(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    seen = batches(store, workers=0)
    drawn = set()
    for batch in seen:
        assert batch["pixels"].shape == (4, 3, 3, 64, 64)
        assert batch["dates"].shape == (4, 3, 3)
        assert batch["visible"].shape == (4, 12)  # a quarter of 3 x 4 x 4 tokens
        for pixels, dates in zip(batch["pixels"], batch["dates"], strict=True):
            levels = pixels[0].mean((1, 2)).round().long() - BANDS.index("B04")
            assert len(set((levels // 1000).tolist())) == 1
            days = [DAYS[(level % 1000) // 10 - 1] for level in levels.tolist()]
            assert days == sorted(set(days))
            assert dates.tolist() == [[day.year - 2002, day.month - 1, 0] for day in days]
            drawn.add(tuple(days))
    assert len(drawn) > 2
    for mine, other in zip(seen, batches(store, workers=1), strict=True):
        assert all(torch.equal(mine[name], other[name]) for name in mine)
    other = torch.cat([batch["dates"] for batch in batches(store, workers=0, seed=1)])
    assert not torch.equal(other, torch.cat([batch["dates"] for batch in seen]))
