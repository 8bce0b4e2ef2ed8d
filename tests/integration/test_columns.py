"""Columns on real shards: fitted and given artefacts, stored masks, staleness, appended data."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.artefacts import ArtefactError, artefact_path, resolve_all
from pipelines.column_codec import unpack_array
from pipelines.costs import estimate
from pipelines.derive import derive, why
from pipelines.executors import Executor
from pipelines.feed import open_eval, open_feed
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.ledger import note_derive, note_ingest, note_run, read_ledger
from pipelines.producers import PRODUCERS, column_spec
from pipelines.rows import StaleColumnError
from pipelines.stream import StreamConfig
from preprocessing.masks import MaskConfig
from preprocessing.targets import TargetConfig
from preprocessing.views import ViewConfig
from storage.columns import column_path
from storage.fs import Store, open_store
from storage.manifest import ManifestError, read_table
from tests.integration.raw import FIELD_PATTERN, make_fields, make_images, make_tiles, make_videos
from tests.integration.test_ingest import tree_hash
from tests.tiny_encoder import tiny_vit

DIRECT = Executor()
PIXELS = (TargetConfig(kind="pixels"),)
COMMON: dict[str, Any] = {"patch": 16, "batch": 4, "seed": 5, "lanes": 4, "targets": PIXELS}
VIEW = {"kind": "center", "size": 32, "flip": False}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store with a small dataset of each modality."""
    folder = tmp_path_factory.mktemp("columns")
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


@pytest.mark.parametrize("column", ASKED)
def test_every_column_has_its_shape_and_a_second_time_costs_nothing(
    store: Store, column: str
) -> None:
    dataset, parameters, shape, dtype = ASKED[column]
    report = derive(store, dataset, {column: parameters}, DIRECT)[column]
    assert report["computed"] > 0
    arrays = arrays_of(store, dataset, column, report)
    assert len(arrays) == report["computed"]
    for array in arrays:
        assert array.dtype == dtype
        assert column == "regions" or array.shape == shape
    again = derive(store, dataset, {column: parameters}, DIRECT)[column]
    assert (again["computed"], again["reused"]) == (0, report["computed"])
    assert again["fingerprint"] == report["fingerprint"]


def test_features_are_those_of_the_encoder_and_stay_with_the_column(
    store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "teacher.safetensors"
    file.write_bytes(tiny_vit())
    asked = {"features": {"view": VIEW, "weights": str(file)}}
    report = derive(store, "image", asked, DIRECT)["features"]
    arrays = arrays_of(store, "image", "features", report)
    assert all(a.shape == (1, 4, 24) and a.dtype == np.float16 for a in arrays)
    assert np.isfinite(np.stack(arrays)).all()
    assert (
        str(tmp_path)
        not in (
            Path(store.uri)
            / column_path("image", "features", report["fingerprint"])
            / "column.json"
        ).read_text()
    )
    file.unlink()
    for weights in ("", report["parameters"]["weights"]):
        again = derive(store, "image", {"features": {"view": VIEW, "weights": weights}}, DIRECT)
        assert again["features"]["computed"] == 0
    with pytest.raises(ArtefactError, match="no file here"):
        derive(store, "image", asked, DIRECT)


@pytest.mark.slow
def test_features_do_not_depend_on_who_computes_them(store: Store, tmp_path: Path) -> None:
    import shutil

    hashes = set()
    for number, executor in enumerate((DIRECT, Executor(workers=2))):
        copy = tmp_path / str(number)
        shutil.copytree(store.uri, copy)
        parameters = {"view": VIEW, "views": 3, "norm": "half"}
        derive(
            open_store(copy),
            "image",
            {"features": parameters},
            executor,
            artefacts={"features": tiny_vit(width=32)},
        )
        hashes.add(tree_hash(copy))
    assert len(hashes) == 1


def test_damaged_centroids_are_found(store: Store, tmp_path: Path) -> None:
    import shutil

    copy = open_store(shutil.copytree(store.uri, tmp_path / "copy"))
    asked = {"codes": {"view": VIEW, "codes": 9}}
    derive(copy, "image", asked, DIRECT)
    spec = resolve_all(copy, "image", column_spec("codes", asked["codes"]))
    path = Path(copy.uri) / artefact_path("image", spec)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    shutil.rmtree(
        next(path.parent.glob("0*"), None) or next(p for p in path.parent.iterdir() if p.is_dir())
    )
    with pytest.raises(ArtefactError, match="was damaged"):
        derive(copy, "image", asked, DIRECT)


def test_new_data_get_the_old_centroids_and_only_they_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "store")
    spec = IngestSpec(modality="image", shard_size=8192)
    ingest(store, [str(make_images(tmp_path / "a", 10))], "image", spec, DIRECT)
    asked = {"codes": {"view": VIEW, "codes": 8}, "hog": {"view": VIEW}}
    first = derive(store, "image", asked, DIRECT)
    ingest(store, [str(make_images(tmp_path / "b", 11, edge=44))], "image", spec, DIRECT)
    lines = why(store, "image", "codes", asked["codes"])
    assert [line["state"] for line in lines] == ["complete", "missing"]
    second = derive(store, "image", asked, DIRECT)
    for name in asked:
        assert second[name]["fingerprint"] == first[name]["fingerprint"]
        assert (first[name]["computed"], second[name]["reused"]) == (10, 10)
        assert second[name]["computed"] == 11
    other = derive(store, "image", {**asked, "hog": {"view": VIEW, "bins": 6}}, DIRECT)
    assert (other["codes"]["computed"], other["hog"]["computed"]) == (0, 21)


def same(left: Any, right: Any) -> bool:
    """Return whether two batches are equal bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


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


def test_two_derives_at_once_give_one_column(store: Store, tmp_path: Path) -> None:
    import multiprocessing
    import shutil

    alone = open_store(shutil.copytree(store.uri, tmp_path / "alone"))
    derive(alone, "image", {"codes": {"view": VIEW, "codes": 7}}, DIRECT)
    both = shutil.copytree(store.uri, tmp_path / "both")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_derive_codes, args=(str(both),)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert tree_hash(both) == tree_hash(Path(alone.uri))


def _derive_codes(uri: str) -> None:
    derive(open_store(uri), "image", {"codes": {"view": VIEW, "codes": 7}}, DIRECT)


@pytest.mark.parametrize("column", [*ASKED, "features"])
def test_costs_are_told_before_and_nothing_is_written(
    store: Store, tmp_path: Path, column: str
) -> None:
    import shutil

    copy = open_store(shutil.copytree(store.uri, tmp_path / "copy"))
    dataset, parameters, *_ = ASKED.get(column, ("image", {"view": VIEW, "norm": "unit"}))
    shutil.rmtree(tmp_path / "copy/datasets" / dataset / "columns", ignore_errors=True)
    given = {"features": tiny_vit()} if column == "features" else {}
    before = tree_hash(tmp_path / "copy")
    asked = {column: parameters}
    cost = estimate(copy, dataset, asked, epochs=50, artefacts=given)[column]
    assert tree_hash(tmp_path / "copy") == before
    report = derive(copy, dataset, asked, DIRECT, artefacts=given)[column]
    assert cost["samples"] == report["computed"]
    assert report["bytes"] == pytest.approx(cost["bytes"], rel=0.5, abs=30_000)
    assert cost["seconds_per_sample"] > 0
    assert cost["advice"].startswith(("store: ", "online: "))
    after = estimate(copy, dataset, asked, artefacts=given)[column]
    assert (after["samples"], after["seconds"], after["bytes"]) == (0, 0, 0)


def test_the_ledger_shows_what_the_second_run_saved(store: Store, tmp_path: Path) -> None:
    import json
    import shutil

    copy = open_store(shutil.copytree(store.uri, tmp_path / "copy"))
    shutil.rmtree(tmp_path / "copy/datasets/video/columns", ignore_errors=True)
    columns = {"flow": {"method": "dis_medium"}, "hog": {"view": {**VIEW, "size": 48}}}
    note_ingest(copy, "video", {"samples": 8, "bytes": 100}, 1.0)
    totals = []
    for run in ("first", "second"):
        began = time.monotonic()
        report = derive(copy, "video", columns, DIRECT)
        note_derive(copy, "video", report, time.monotonic() - began)
        used = {name: made["fingerprint"] for name, made in report.items()}
        record = {"provenance": {"dataset": "video", "columns": used}}
        copy.write(f"runs/{run}/run.json", json.dumps(record).encode())
        totals.append(note_run(copy, run))
        assert note_run(copy, run) == totals[-1]
    first, second = totals
    assert first is not None
    assert second is not None
    assert first["saved"] == 0
    assert second["saved"] == pytest.approx(first["spent"])
    assert second["spent"] < first["spent"]
    ledger = read_ledger(copy)
    assert {line["column"] for line in ledger["columns"]} == {"dataset", "flow", "hog"}
    assert [line["runs"] for line in ledger["columns"]] == [2, 2, 2]
    assert [line["samples"] for line in ledger["columns"]] == [8, 8, 8]
    assert {line["run"]: line["spent"] for line in ledger["runs"]} == {
        "first": first["spent"],
        "second": second["spent"],
    }
    bytes_of_runs = [line["bytes"] for line in sorted(ledger["runs"], key=lambda e: e["run"])]
    assert bytes_of_runs == [sum(line["bytes"] for line in ledger["columns"]), 0]
    assert note_run(copy, "none") is None


RUNS = {
    "mae_tiny": ("image", ["model.patch=16", "view.size=32"]),
    "maskfeat_image_tiny": (
        "image",
        ["model.patch=16", "view.size=32", "target.hog.source=online"],
    ),
    "videomae_tiny": ("video", ["model.patch=16", "view.size=48"]),
}


@pytest.mark.parametrize("recipe", RUNS)
def test_features_of_a_run_are_those_of_its_encoder(store: Store, recipe: str) -> None:
    from training.assemble import make_trainer
    from training.checkpoints import read_checkpoint
    from training.frozen import encoder_bytes
    from training.pretrain import pretrain
    from training.ranks import Place
    from training.recipe import make_recipe, read_recipe
    from training.runs import read_record

    dataset, words = RUNS[recipe]
    words = [*words, f"data.dataset={dataset}", "steps=2", "batch=4", "data.heldout=0"]
    pretrain(store, read_recipe(recipe, words), run=recipe)
    record = read_record(store, recipe)
    assert record is not None
    made = make_recipe(record["recipe"])
    view = {"kind": "center", "size": made.view.size, "flip": False}
    asked = {"features": {"view": view}}
    given = {"features": encoder_bytes(store, recipe)}
    report = derive(store, dataset, asked, DIRECT, artefacts=given)["features"]
    stored = np.stack(arrays_of(store, dataset, "features", report))[:, 0].astype(np.float32)
    trainer = make_trainer(made, record["input"], Place(0, 1, torch.device("cpu")))
    trainer.model.load_state_dict(read_checkpoint(store, recipe)["model"])
    stream = StreamConfig(
        dataset=dataset,
        view=ViewConfig(**view),
        mask=MaskConfig(),
        tubelet=made.model.tubelet,
        **{**COMMON, "targets": ()},
    )
    with torch.no_grad():
        online = torch.cat(
            [
                trainer.model.eval().features(trainer.inputs(batch["pixels"]))
                for batch in open_eval(store, stream)
            ]
        ).numpy()
    assert stored.shape == online.shape
    np.testing.assert_allclose(stored, online, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("harm", ["bit", "lost"])
def test_verify_names_a_damaged_artefact(store: Store, tmp_path: Path, harm: str) -> None:
    import shutil

    from pipelines.verify import verify

    copy = open_store(shutil.copytree(store.uri, tmp_path / "copy"))
    derive(copy, "image", {"codes": {"view": VIEW, "codes": 4}}, DIRECT)
    assert verify(copy, "image")["damaged"] == []
    file = next((tmp_path / "copy").rglob("artefact.bin"))
    if harm == "bit":
        data = bytearray(file.read_bytes())
        data[-3] ^= 1
        file.write_bytes(data)
    else:
        file.unlink()
    named = [entry["where"] for entry in verify(copy, "image")["damaged"]]
    assert named == [str(file.relative_to(copy.uri))]


@pytest.mark.parametrize("table", ["manifest", "index"])
def test_derive_refuses_damaged_tables(store: Store, tmp_path: Path, table: str) -> None:
    import shutil

    copy = open_store(shutil.copytree(store.uri, tmp_path / "copy"))
    flow = derive(copy, "video", {"flow": {}}, DIRECT)["flow"]["fingerprint"]
    folder = Path(copy.uri) / column_path("video", "flow", flow)
    if table == "manifest":
        file = next((Path(copy.uri) / "datasets/video/parts").rglob("manifest.parquet"))
    else:
        file = next(folder.rglob("index.parquet"))
    data = bytearray(file.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    file.write_bytes(data)  # a lost page; a single bit may lie where nobody reads it
    mask = {"kind": "mgmae", "ratio": 0.71}
    asked = {"masks": {"size": 32, "view": VIEW, "views": 1, "draws": 1, "mask": mask}}
    with pytest.raises(ManifestError, match=table):
        derive(copy, "video", asked, DIRECT)
