"""The report of a dataset whose columns are drawn over its samples."""

from __future__ import annotations

from pathlib import Path

from flows.report_data import write_report
from pipelines.derive import derive
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from storage.fs import open_store
from tests.integration.raw import make_images, make_tiles, make_videos


def test_columns_are_drawn(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    raw = make_videos(tmp_path / "raw", count=2)
    ingest(store, [str(raw)], "clips", IngestSpec(modality="video", frames=8), Executor())
    asked = {"hog": {"view": {"size": 64}}, "flow": {}, "motion": {}}
    derive(store, "clips", asked, Executor())
    page = write_report(store.uri, ["clips"], tmp_path / "clips.html").read_text()
    drawn = ("frozen view 0", "gradient histograms")
    drawn += tuple(f"{name} to the frame before, full colour" for name in ("flow", "motion"))
    assert [page.count(f">{label}") for label in drawn] == [2, 2, 2, 2]


def test_every_column_of_pictures_and_tiles_is_drawn(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    ingest(store, [str(make_images(tmp_path / "a"))], "a", IngestSpec(modality="image"), Executor())
    ingest(
        store, [str(make_tiles(tmp_path / "b"))], "b", IngestSpec(modality="satellite"), Executor()
    )
    view = {"view": {"size": 32}}
    small = {"hog": {**view, "scales": True}, "fft": view, "regions": {"segments": 9}}
    small["codes"] = {**view, "codes": 4, "fit_samples": 4}
    small["masks"] = {"size": 32, "draws": 2, "mask": {"kind": "random", "ratio": 0.5}}
    derive(store, "a", small, Executor())
    derive(store, "b", {"ndi": {"names": ["ndvi"]}}, Executor())
    page = write_report(store.uri, ["a", "b"], tmp_path / "page.html").read_text()
    for label in ("gradient histograms", "log magnitude", "borders of", "nearest", "draw 0 of 2"):
        assert page.count(f">{label}") == 2, label
    assert page.count(">ndvi: brown") == page.count(">each band") == 2
    assert page.count("<span>B04</span>") == 2
