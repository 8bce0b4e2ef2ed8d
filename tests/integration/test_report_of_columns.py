"""The report of a dataset whose columns are drawn over its samples."""

from __future__ import annotations

from pathlib import Path

from flows.report_data import write_report
from pipelines.derive import derive
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from storage.fs import open_store
from tests.integration.raw import make_videos


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
