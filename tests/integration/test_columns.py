"""Columns on real shards: fitted and given artefacts, appended data, damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.artefacts import ArtefactError, artefact_path, resolve_all
from pipelines.derive import derive, why
from pipelines.executors import Executor
from pipelines.feed import open_eval
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.producers import column_spec
from pipelines.stream import StreamConfig
from preprocessing.masks import MaskConfig
from preprocessing.views import ViewConfig
from storage.columns import column_path
from storage.fs import Store, open_store
from storage.manifest import ManifestError
from tests.integration.column_sets import ASKED, COMMON, DIRECT, VIEW, arrays_of, make_store
from tests.integration.raw import make_images
from tests.integration.test_ingest import tree_hash
from tests.tiny_encoder import tiny_vit


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store with a small dataset of each modality."""
    return make_store(tmp_path_factory.mktemp("columns"))


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
