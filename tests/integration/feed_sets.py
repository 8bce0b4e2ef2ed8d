"""A small dataset of each modality with its columns, and a stream of each, for tests of feeds."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from pipelines.derive import derive
from pipelines.executors import Executor
from pipelines.feed import Feed, open_mixture
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.stream import StreamConfig
from preprocessing.masks import MaskConfig
from preprocessing.targets import TargetConfig
from preprocessing.views import ViewConfig
from storage.fs import Store, open_store
from tests.integration.raw import FIELD_PATTERN, make_fields, make_images, make_tiles, make_videos

_COMMON = {"patch": 16, "batch": 4, "seed": 5, "lanes": 4}
_PIXELS = (TargetConfig(kind="pixels"),)
STREAMS = {
    "image": StreamConfig(
        dataset="image",
        view=ViewConfig(size=32),
        mask=MaskConfig(),
        targets=(TargetConfig(kind="hog", cell=8),),
        **_COMMON,
    ),
    "video": StreamConfig(
        dataset="video",
        view=ViewConfig(size=48, kind="multi_scale"),
        mask=MaskConfig(kind="mgmae"),
        targets=(TargetConfig(kind="hog", cell=8, source="column"),),
        tubelet=2,
        frozen_views=2,
        **_COMMON,
    ),
    "microscopy": StreamConfig(
        dataset="microscopy",
        view=ViewConfig(size=32, kind="random_crop"),
        mask=MaskConfig(),
        targets=_PIXELS,
        **_COMMON,
    ),
    "satellite": StreamConfig(
        dataset="satellite",
        view=ViewConfig(size=32),
        mask=MaskConfig(),
        targets=_PIXELS,
        groups=(("B02", "B03"), ("B08",)),
        **_COMMON,
    ),
}
"Masks of the clips follow the column `flow`, their targets are the column `hog`."
PLAIN = StreamConfig(
    dataset="image", view=ViewConfig(size=32), mask=MaskConfig(), targets=(), **_COMMON
)
"Pictures alone, as `fill` stores them."
WAYS: dict[str, tuple[tuple[StreamConfig, ...], tuple[int, ...]]] = {
    **{name: ((stream,), (1,)) for name, stream in STREAMS.items()},
    "mixture": (tuple(STREAMS.values()), (3, 2, 1, 1)),
}
"Streams and their weights, by name."


def make_store(folder: Path) -> Store:
    """Ingest a dataset of each modality and derive what the streams read."""
    store = open_store(folder / "store")
    made = {
        "image": (make_images(folder / "image", 14), {"shard_size": 8192, "labels": "parent"}),
        "video": (make_videos(folder / "video", 8), {"frames": 8, "shard_size": 8192}),
        "microscopy": (make_fields(folder / "microscopy", 4), {"pattern": FIELD_PATTERN}),
        "satellite": (make_tiles(folder / "satellite", 8), {}),
    }
    for modality, (raw, values) in made.items():
        spec = IngestSpec(modality=modality, heldout=0.2, **values)
        ingest(store, [str(raw)], modality, spec, Executor())
    for name, stream in STREAMS.items():
        columns = {column: s.parameters for column, s in stream.needed_columns().items()}
        if columns:
            derive(store, name, columns, Executor())
    return store


def fill(store: Store, raw: Path) -> Store:
    """Write 16 textures into a folder and ingest them as the dataset of PLAIN."""
    spec = IngestSpec(modality="image", shard_size=8192, heldout=0.0)
    ingest(store, [str(make_images(raw, 16))], "image", spec, Executor())
    return store


def open_way(store: Store, way: str, **values: Any) -> Feed:
    """Open one of the ways."""
    streams, weights = WAYS[way]
    return open_mixture(store, streams, weights, **values)


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Compare two batches, bit for bit."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name])
        for name in right
    )


def joined(shares: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the shares of all ranks together to the global batch."""
    return {
        name: first if name == "stream" else torch.cat([share[name] for share in shares])
        for name, first in shares[0].items()
    }


def all_ranks(feeds: Sequence[Iterable[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield global batches of feeds, one of each rank, read in turn."""
    for shares in zip(*feeds, strict=True):
        yield joined(shares)


def digests(batch: dict[str, Any]) -> list[str]:
    """Return a hash of all that a batch holds of each sample: names, types, shapes and bytes."""
    stream = int(batch.get("stream", 0))
    found = [hashlib.sha256(f"stream {stream}".encode()) for _ in batch["sample"]]
    for name in sorted(batch.keys() - {"stream"}):
        rows = batch[name].numpy()
        for digest, row in zip(found, rows, strict=True):
            digest.update(f"{name} {row.dtype} {row.shape}".encode())
            digest.update(row.tobytes())
    return [digest.hexdigest() for digest in found]


Harm = Mapping[int, Callable[[list[Feed]], None]]
"what is done to the feeds of all ranks once so many batches have come"


def delivered(
    store: Store, way: str, *, ranks: int = 1, harm: Harm | None = None, **values: Any
) -> list[list[str]]:
    """Read a way on all ranks at once; return the digests of each global batch.

    Ranks that end at different steps are an error.
    """
    feeds = [open_way(store, way, rank=rank, ranks=ranks, **values) for rank in range(ranks)]
    got: list[list[str]] = []
    for shares in zip(*feeds, strict=True):
        got.append(list(chain.from_iterable(map(digests, shares))))
        if harm is not None and len(got) in harm:
            harm[len(got)](feeds)
    proofs = {tuple((proof.epoch, proof.batches) for proof in feed.proofs) for feed in feeds}
    assert len(proofs) == 1, "ranks have other epochs"
    for feed in feeds:
        feed.close()
    return got


def resume_points(last: int, *place: object) -> tuple[int, int]:
    """Return the beginning, and a batch drawn for this place of a sweep."""
    return 0, random.Random(repr(place)).randrange(1, last)
