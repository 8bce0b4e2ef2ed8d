"""A small dataset of each modality and what is asked of its columns, for tests of columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.column_codec import unpack_array
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from preprocessing.targets import TargetConfig
from storage.columns import column_path
from storage.fs import Store, open_store
from storage.manifest import read_table
from tests.integration.raw import FIELD_PATTERN, make_fields, make_images, make_tiles, make_videos

DIRECT = Executor()
PIXELS = (TargetConfig(kind="pixels"),)
COMMON: dict[str, Any] = {"patch": 16, "batch": 4, "seed": 5, "lanes": 4, "targets": PIXELS}
VIEW = {"kind": "center", "size": 32, "flip": False}


def make_store(folder: Path) -> Store:
    """Return a store with a small dataset of each modality."""
    store = open_store(folder / "store")
    made: dict[str, tuple[Path, dict[str, Any]]] = {
        "image": (make_images(folder / "image", 10), {"shard_size": 8192}),
        "video": (make_videos(folder / "video", 4), {"frames": 8, "shard_size": 8192}),
        "microscopy": (make_fields(folder / "microscopy", 2), {"pattern": FIELD_PATTERN}),
        "satellite": (make_tiles(folder / "satellite", 6), {}),
    }
    for modality, (raw, values) in made.items():
        spec = IngestSpec(modality=modality, heldout=0.2, **values)
        ingest(store, [str(raw)], modality, spec, DIRECT)
    return store


def arrays_of(store: Store, dataset: str, column: str, report: dict[str, Any]) -> list[Any]:
    """Return all stored arrays of a column, in order."""
    folder = Path(store.uri) / column_path(dataset, column, report["fingerprint"])
    found = []
    for part in sorted(p for p in folder.iterdir() if p.is_dir()):
        rows = read_table(store, f"{part.relative_to(store.uri)}/index.parquet").to_pylist()
        shards = sorted(part.glob("*.tar"))
        for row in rows:
            data = shards[row["shard"]].read_bytes()
            found.append(unpack_array(data[row["offset"] : row["offset"] + row["size"]]))
    return found


ASKED: dict[str, tuple[str, dict[str, Any], tuple[int, ...], type]] = {
    "hog": ("image", {"view": VIEW, "patch": 16}, (1, 4, 108), np.uint8),
    "codes": ("image", {"view": VIEW, "codes": 8, "views": 2}, (2, 4), np.uint16),
    "regions": ("image", {"segments": 6}, (0, 0), np.uint16),
    "fft": ("microscopy", {"view": VIEW}, (1, 3, 32, 17), np.uint16),
    "ndi": ("satellite", {"names": ["ndvi", "ndwi"]}, (2, 32, 32), np.int16),
    "flow": ("video", {}, (2, 7, 8, 8, 2), np.int16),
    "motion": ("video", {}, (8, 8, 8, 2), np.int16),
    "masks": ("video", {"size": 64, "mask": {"kind": "tube"}}, (8, 8), np.uint8),
}
"dataset, parameters, shape and dtype of some columns; regions depend on the picture"
