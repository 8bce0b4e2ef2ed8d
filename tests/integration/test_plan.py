"""The plan says what the ingest then does: samples, shards, bytes, rejects; and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.estimate import estimate
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from storage.fs import open_store
from tests.integration.raw import FIELD_PATTERN, make_fields, make_images, make_tiles, make_videos
from tests.integration.test_ingest import tree_hash


def spec(**values: object) -> IngestSpec:
    return IngestSpec(**{"modality": "image", **values})  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [{}, {"resize": 24}, {"shard_size": 8192}])
def test_images_are_counted_exactly(values: dict[str, object], tmp_path: Path) -> None:
    raw = make_images(tmp_path / "raw", count=90)
    told = estimate([str(raw)], spec(**values), units=24)
    assert (told["probed"]["units"], told["exact"]) == (24, False)
    done = ingest(open_store(tmp_path / "store"), [str(raw)], "set", spec(**values), Executor())
    assert (told["files"], told["samples"]) == (done["inputs"], done["samples"]) == (90, 90)
    assert told["bytes"] == pytest.approx(done["bytes"], rel=0.2)
    assert told["shards"] == pytest.approx(done["shards"], rel=0.2)
    assert told["rejects"] == 0


@pytest.mark.parametrize(
    ("modality", "make", "values"),
    [
        ("video", make_videos, {"frames": 8, "resize": 32}),
        ("microscopy", make_fields, {"pattern": FIELD_PATTERN}),
        ("satellite", make_tiles, {"tile": 16}),
    ],
)
def test_a_full_probe_is_exact(
    modality: str, make: Callable[[Path], Path], values: dict[str, object], tmp_path: Path
) -> None:
    raw = make(tmp_path / "raw")
    wanted = spec(modality=modality, **values)
    told = estimate([str(raw)], wanted)
    done = ingest(open_store(tmp_path / "store"), [str(raw)], "set", wanted, Executor())
    assert told["exact"]
    assert (told["files"], told["samples"]) == (done["inputs"], done["samples"])
    assert told["shards"] == done["shards"]
    assert told["bytes"] == pytest.approx(done["bytes"], rel=0.1)
    assert told["seconds"] > 0


def test_clips_are_counted_by_packets_where_encoding_takes_too_long(tmp_path: Path) -> None:
    for frames in (8, 20, 32):
        make_videos(tmp_path / "raw" / str(frames), count=2, frames=frames)
    wanted = spec(modality="video", frames=8, resize=32)
    told = estimate([str(tmp_path / "raw")], wanted, units=2)
    done = ingest(
        open_store(tmp_path / "store"), [str(tmp_path / "raw")], "set", wanted, Executor()
    )
    assert told["probed"]["units"] == 2
    assert told["samples"] == done["samples"] == 2 * (1 + 2 + 4)
    assert told["bytes"] == pytest.approx(done["bytes"], rel=0.2)


def test_what_would_be_refused_is_said_by_class(tmp_path: Path) -> None:
    raw = make_images(tmp_path / "raw", count=6)
    (raw / "text.jpg").write_text("not a picture")
    (raw / "empty.png").write_bytes(b"")
    before = tree_hash(raw)
    told = estimate([str(raw)], spec())
    assert (told["files"], told["samples"], told["rejects"]) == (8, 6, 2)
    assert told["reasons"] == {"empty_file": 1, "unrecognised_format": 1}
    assert {Path(row["uri"]).name for row in told["refused"]} == {"text.jpg", "empty.png"}
    assert tree_hash(raw) == before


def test_fields_without_a_channel_are_known_from_the_names(tmp_path: Path) -> None:
    raw = make_fields(tmp_path / "raw")
    (raw / "P1_B02_s1_w2_ER.tif").unlink()
    told = estimate([str(raw)], spec(modality="microscopy", pattern=FIELD_PATTERN), units=1)
    assert (told["units"], told["samples"], told["rejects"]) == (5, 5, 2)
    assert told["reasons"] == {"incomplete_channels": 2}


def test_a_probe_ends_in_time_and_spreads_over_sizes(tmp_path: Path) -> None:
    raw = make_images(tmp_path / "raw", count=40)
    told = estimate([str(raw)], spec(), seconds=0.0)
    assert told["probed"]["units"] == 1
    assert told["samples"] == 40
    twice = [estimate([str(raw)], spec(), units=8, seed=3)["bytes"] for _ in range(2)]
    assert twice[0] == twice[1]


def test_more_workers_take_less_time(tmp_path: Path) -> None:
    raw = make_images(tmp_path / "raw", count=8, edge=400)
    told = estimate([str(raw)], spec(resize=64), workers=4)
    whole = told["encode_seconds"] + told["hash_seconds"]
    assert told["seconds"] == pytest.approx(whole, abs=0.02)
    assert told["workers"] == 4


def test_a_missing_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        estimate([str(tmp_path / "nowhere")], spec())
