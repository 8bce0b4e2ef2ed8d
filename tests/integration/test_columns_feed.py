"""Streams that read columns: stored masks and targets are the online ones, stale ones refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.derive import derive
from pipelines.feed import open_feed
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.producers import PRODUCERS
from pipelines.rows import StaleColumnError
from pipelines.stream import StreamConfig
from preprocessing.masks import MaskConfig
from preprocessing.targets import TargetConfig
from preprocessing.views import ViewConfig
from storage.fs import Store, open_store
from tests.integration.column_sets import COMMON, DIRECT, make_store
from tests.integration.feed_sets import same
from tests.integration.raw import make_videos
from tests.tiny_encoder import tiny_vit


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store with a small dataset of each modality."""
    return make_store(tmp_path_factory.mktemp("columns"))


def stream_with(mask: MaskConfig, **values: Any) -> StreamConfig:
    """Return a stream of clips."""
    settings = {"dataset": "video", "view": ViewConfig(size=48), "tubelet": 2, **COMMON, **values}
    return StreamConfig(mask=mask, **settings)


def streams(mask: MaskConfig, **values: Any) -> tuple[StreamConfig, StreamConfig]:
    """Return a stream whose frozen masks are made online, and the same with stored ones."""
    made = ("online", "column")
    first, second = (stream_with(replace(mask, made=word), **values) for word in made)
    return first, second


@pytest.mark.parametrize(
    ("mask", "values"),
    [
        (MaskConfig(kind="tube", ratio=0.6, draws=3), {}),
        (MaskConfig(kind="colormae", draws=5), {"dataset": "image", "tubelet": 1}),
        (MaskConfig(kind="random", draws=2, decoder="partial"), {"view": ViewConfig(size=64)}),
        (MaskConfig(kind="mgmae", ratio=0.7, draws=4), {"frozen_views": 2}),
        (MaskConfig(kind="mgm", ratio=0.7, draws=2, source="motion"), {"frozen_views": 2}),
        (MaskConfig(kind="mgmae", ratio=0.7, draws=2), {"frozen_views": 1, "stride": 2}),
    ],
    ids=lambda v: v.kind + v.source if isinstance(v, MaskConfig) else "",
)
def test_stored_masks_give_the_batches_of_online_ones(
    store: Store, mask: MaskConfig, values: dict[str, Any]
) -> None:
    online, stored = streams(mask, **values)
    for stream in (online, stored):
        asked = {name: spec.parameters for name, spec in stream.needed_columns().items()}
        derive(store, stream.dataset, asked, DIRECT)
    assert set(stored.needed_columns()) == {"masks"}
    seen = 0
    for left, right in zip(
        open_feed(store, online, stop=9), open_feed(store, stored, stop=9), strict=True
    ):
        assert same(left, right)
        seen += len(left["visible"])
    assert seen == 36


STALE = {
    "grid": ({"view": ViewConfig(size=32)}, {}, "size 48, wanted 32"),
    "patch": ({"patch": 8}, {}, "patch 16, wanted 8"),
    "tubelet": ({"tubelet": 1}, {}, "tubelet 2, wanted 1"),
    "stride": ({"stride": 2}, {}, "stride 1, wanted 2"),
    "ratio": ({}, {"ratio": 0.5}, "mask.ratio 0.7, wanted 0.5"),
    "kind": ({}, {"kind": "mgm"}, "mask.kind 'mgmae', wanted 'mgm'"),
    "draws": ({}, {"draws": 2}, "draws 4, wanted 2"),
    "views": ({"frozen_views": 4}, {}, "views 2, wanted 4"),
    "view set": ({"view": ViewConfig(size=48, flip=False)}, {}, "view.flip True, wanted False"),
    "flow": ({"columns": {"flow": {"cell": 4}}}, {}, "input.cell 8, wanted 4"),
}


@pytest.mark.parametrize("name", STALE)
def test_a_mask_column_is_refused_for_anything_else(store: Store, name: str) -> None:
    mask = MaskConfig(kind="mgmae", ratio=0.7, draws=4)
    _, stored = streams(mask, frozen_views=2)
    derive(store, "video", {"masks": stored.needed_columns()["masks"].parameters}, DIRECT)
    open_feed(store, stored)
    values, changed, words = STALE[name]
    _, other = streams(replace(mask, **changed), **{"frozen_views": 2, **values})
    with pytest.raises(StaleColumnError) as refusal:
        open_feed(store, other)
    assert words in str(refusal.value)
    assert "headrace derive video masks draws=" in str(refusal.value)


def test_the_command_of_a_refusal_derives_the_right_column(store: Store) -> None:
    from flows.options import column_settings, split_settings

    _, stored = streams(MaskConfig(kind="mgmae", ratio=0.8, draws=2), frozen_views=1)
    with pytest.raises(StaleColumnError) as refusal:
        open_feed(store, stored)
    command = str(refusal.value).split("'headrace derive ")[1].split("'")[0]
    (dataset, *names), settings = split_settings(command.split())
    known = {name: producer.defaults for name, producer in PRODUCERS.items()}
    derive(store, dataset, column_settings(names, settings, known), DIRECT)
    open_feed(store, stored)


@pytest.mark.parametrize("what", ["version", "parameters", "part"])
def test_a_stale_flow_is_refused_by_name(
    store: Store, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    copy = open_store(shutil.copytree(store.uri, tmp_path / "copy"))
    derive(copy, "video", {"flow": {}}, DIRECT)
    stream = stream_with(MaskConfig(kind="mgmae", ratio=0.7))
    if what == "version":
        changed = {**PRODUCERS, "flow": replace(PRODUCERS["flow"], version=2)}
        for name, producer in changed.items():
            monkeypatch.setitem(PRODUCERS, name, producer)
        words = "version 1, wanted 2"
    elif what == "parameters":
        stream = replace(stream, columns={"flow": {"method": "dis_fast"}})
        words = "method 'dis_medium', wanted 'dis_fast'"
    else:
        raw = make_videos(tmp_path / "more", 5, edge=72)
        ingest(copy, [str(raw)], "video", IngestSpec(modality="video", frames=8), DIRECT)
        words = "not derived"
    with pytest.raises(StaleColumnError, match=words) as refusal:
        open_feed(copy, stream)
    assert "column flow of video" in str(refusal.value)
    assert "headrace derive video flow" in str(refusal.value)


def test_motion_is_refused_at_another_stride(store: Store) -> None:
    stream = stream_with(MaskConfig(kind="mgm", source="motion", ratio=0.7), stride=2)
    with pytest.raises(ValueError, match="codec vectors point to the frame before"):
        open_feed(store, stream)


def test_flow_at_another_stride_is_another_column(store: Store) -> None:
    derive(store, "video", {"flow": {}}, DIRECT)
    stream = stream_with(MaskConfig(kind="mgmae", ratio=0.75), stride=4)
    with pytest.raises(StaleColumnError, match="stride 1, wanted 4"):
        open_feed(store, stream)


def test_columns_without_a_view_of_their_own_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="stored features fits only its own frozen views"):
        stream_with(MaskConfig(), targets=(TargetConfig(kind="features", source="column"),))
    with pytest.raises(ValueError, match="follows the motion that a view shows"):
        streams(MaskConfig(kind="mgmae", draws=2))[1].needed_columns()
    with pytest.raises(ValueError, match="cannot make it"):
        stream_with(MaskConfig(), targets=(TargetConfig(kind="features"),))


@pytest.mark.parametrize("dataset", ["image", "video"])
@pytest.mark.parametrize("kind", ["hog", "hog_scales"])
def test_stored_hog_is_the_online_target_within_its_bound(
    store: Store, dataset: str, kind: str
) -> None:
    tubelet = 2 if dataset == "video" else 1
    values = {"dataset": dataset, "view": ViewConfig(size=64), "tubelet": tubelet}
    batches = []
    for source in ("online", "column"):
        target = TargetConfig(kind=kind, source=source)
        stream = stream_with(MaskConfig(), targets=(target,), frozen_views=2, **values)
        asked = {name: spec.parameters for name, spec in stream.needed_columns().items()}
        derive(store, dataset, asked, DIRECT)
        batches.append(list(open_feed(store, stream, stop=5)))
    for online, stored in zip(*batches, strict=True):
        found, wanted = (batch.pop(f"targets.{kind}") for batch in (stored, online))
        assert (found - wanted).abs().max() <= 1 / 510 + 1e-6
        assert found.any()
        assert same(online, stored)
    both = tuple(TargetConfig(kind=k, source="column") for k in ("hog", "hog_scales"))
    with pytest.raises(ValueError, match="of one column hog"):
        stream_with(MaskConfig(), targets=both, frozen_views=2, **values)


@pytest.mark.parametrize("column", sorted(set(PRODUCERS) - {"hog", "ndi", "features"}))
def test_columns_that_nothing_predicts_are_refused_as_targets(column: str) -> None:
    with pytest.raises(ValueError, match=rf"target\.kind is '{column}'; ") as refusal:
        TargetConfig(kind=column, source="column")
    assert "must be one of" not in str(refusal.value)


def test_stored_indices_and_features_are_targets(store: Store) -> None:
    ndi = TargetConfig(kind="ndi", source="column")
    common = {**COMMON, "dataset": "satellite", "view": ViewConfig(size=16), "patch": 8}
    common["columns"] = {"ndi": {"names": ["ndvi", "ndwi"]}}
    stored = StreamConfig(mask=MaskConfig(), **{**common, "targets": (ndi,)})
    online = replace(stored, targets=(TargetConfig(kind="ndi"),))
    derive(store, "satellite", {"ndi": stored.needed_columns()["ndi"].parameters}, DIRECT)
    both = (
        open_feed(store, replace(s, columns=common["columns"]), stop=4) for s in (stored, online)
    )
    for left, right in zip(*both, strict=True):
        assert left["targets.ndi"].shape == (4, 4, 128)
        assert (left["targets.ndi"] - right["targets.ndi"]).abs().max() <= 1 / 65534 + 1e-6
    features = TargetConfig(kind="features", source="column")
    stream = StreamConfig(
        dataset="image",
        mask=MaskConfig(),
        view=ViewConfig(size=32),
        frozen_views=2,
        **{**COMMON, "targets": (features,)},
    )
    asked = stream.needed_columns()["features"].parameters
    derive(store, "image", {"features": asked}, DIRECT, artefacts={"features": tiny_vit()})
    batch = next(iter(open_feed(store, stream, stop=1)))
    assert batch["targets.features"].shape == (4, 4, 24)
