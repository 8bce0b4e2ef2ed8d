"""Exported runs, loaded by the libraries that they are for: no file edited, features equal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from preprocessing.vit import encode_tokens, frozen_encoder
from storage.fs import Store, open_store
from training.assemble import make_trainer
from training.checkpoints import write_checkpoint
from training.export import export_run
from training.frozen import Trained, read_trained
from training.import_weights import load_exported, load_weights
from training.models.families import MODELS
from training.ranks import Place
from training.recipe import make_recipe, read_recipe, resolve
from training.runs import write_record

STEP, SIZE, FRAMES = 7, 32, 4
SMALL = [
    "view.size=32", "model.patch=8", "model.width=24", "model.depth=2", "model.heads=2",
    "model.decoder_width=16", "model.decoder_depth=1", "model.decoder_heads=2",
]  # fmt: skip
STATS = {"mean": [90.0, 100.0, 110.0], "variance": [400.0, 500.0, 600.0]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def save(store: Store) -> Callable[..., Trained]:
    """Return a maker of runs that lie in the store as trained ones do, every weight random."""

    def make(family: str, *words: str, channels: int = 3) -> Trained:
        clip = family in ("videomae", "mae_st", "videomae_labels")
        values = resolve(read_recipe("videomae_tiny" if clip else "mae_tiny", [*SMALL, *words]))
        values["model"]["family"] = family
        if family == "satmae_group":
            values["model"]["groups"] = [["red"], ["green", "blue"]]
        if family == "camae":
            values["model"]["groups"] = [["red"], ["green"], ["blue"]]
        if family == "videomae_labels":
            values["target"] = [{"kind": "label"}]
        if family == "satmae_time":
            values["data"]["series"] = "scene"
            values["model"] |= {"context": 12, "decoder_width": 24, "decoder_context": 12}
        if family == "localmim":
            values["target"] = [{"kind": "hog_scales"}]
            values["model"]["depth"] = 4
        recipe = make_recipe(values)
        several = clip or family == "satmae_time"
        shape = [channels, FRAMES, SIZE, SIZE] if several else [channels, SIZE, SIZE]
        about = {
            "channels": ["red", "green", "blue", "nir"][:channels],
            "shape": shape,
            "stats": STATS,
            "widths": {
                target.kind: 72 if target.kind == "pixels" else 594 for target in recipe.target
            },
        }
        trainer = make_trainer(recipe, about, Place(0, 1, torch.device("cpu")))
        draw = torch.Generator().manual_seed(5)
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=draw))
        record = {"name": family, "recipe": resolve(recipe), "input": about}
        write_record(store, family, "run.json", record)
        state = {"step": STEP, "model": trainer.model.state_dict()}
        write_checkpoint(store, family, STEP, state, keep=1)
        return read_trained(store, family)

    return make


def raw(trained: Trained) -> Tensor:
    draw = torch.Generator().manual_seed(6)
    shape = (2, *trained.about["shape"])
    return torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)


@torch.no_grad()
def features(trained: Trained) -> Tensor:
    return trained.model.features(trained.inputs(raw(trained)))


def far(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    assert wanted.std() > 0.1
    return float((found - wanted).abs().max())


@torch.no_grad()
def test_images_are_seen_equally_by_transformers(
    store: Store, save: Callable[..., Trained], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    trained = save("mae")
    told = export_run(store, "mae", "hf", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        Path(file).name for file in told["files"]
    )
    pixels = trained.inputs(raw(trained))
    for name, extra in (("ViTMAEModel", {}), ("ViTModel", {"add_pooling_layer": False})):
        kind = getattr(transformers, name)
        model, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True, **extra)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        given = {"noise": torch.arange(16.0).expand(2, -1)} if name == "ViTMAEModel" else {}
        seen = model.eval()(pixels, **given).last_hidden_state[:, 1:]
        assert far(seen, features(trained)) <= 1e-5
    auto = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    assert far(auto(pixels).last_hidden_state[:, 1:].mean(1), features(trained).mean(1)) <= 1e-5


@torch.no_grad()
def test_clips_are_seen_equally_by_transformers(
    store: Store, save: Callable[..., Trained], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    trained = save("videomae")
    export_run(store, "videomae", "hf", tmp_path / "out")
    for kind in (transformers.VideoMAEModel, transformers.AutoModel):
        model, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        clips = trained.inputs(raw(trained)).transpose(1, 2)
        assert far(model.eval()(clips).last_hidden_state, features(trained)) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("family", "head"), [("mae", "ViTMAE"), ("videomae", "VideoMAE")])
def test_the_decoder_goes_along_when_asked(
    family: str, head: str, store: Store, save: Callable[..., Trained], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    trained = save(family)
    export_run(store, family, "hf", tmp_path / "out", decoder=True)
    kind = getattr(transformers, f"{head}ForPreTraining")
    model, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokens = 16 if family == "mae" else 32
    order = torch.rand(2, tokens, generator=torch.Generator().manual_seed(1)).argsort(1)
    kept = int(tokens * (1 - trained.recipe.mask.ratio))
    visible, hidden = order[:, :kept].sort(1).values, order[:, kept:].sort(1).values
    inputs = trained.inputs(raw(trained))
    wanted = trained.model(inputs, visible, hidden)["pixels"]
    if family == "mae":
        logits = model.eval()(inputs, noise=order.argsort(1).float()).logits
        logits = logits.gather(1, hidden[..., None].expand(-1, -1, logits.shape[-1]))
    else:
        masked = torch.zeros(2, tokens, dtype=torch.bool).scatter(1, hidden, True)
        logits = model.eval()(inputs.transpose(1, 2), bool_masked_pos=masked).logits
    assert far(logits, wanted) <= 1e-5 * float(wanted.abs().max())


def test_a_preprocessor_feeds_what_the_run_was_fed(
    store: Store, save: Callable[..., Trained], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    for family, norm in (("mae", "imagenet"), ("mae", "unit"), ("mae", "stats")):
        trained = save(family, f"model.norm_input={norm}")
        export_run(store, family, "hf", tmp_path / norm)
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / norm)
        picture = raw(trained)[0].permute(1, 2, 0).numpy()
        fed = processor(picture, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(fed, trained.inputs(raw(trained))[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("norm", ["self", "stretch"])
def test_a_norm_that_no_processor_knows_names_no_processor(
    norm: str, store: Store, save: Callable[..., Trained], tmp_path: Path
) -> None:
    save("mae", f"model.norm_input={norm}")
    export_run(store, "mae", "hf", tmp_path / "out")
    told = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert "image_processor_type" not in told
    rule = told["headrace"]
    assert rule.get("per_sample") if norm == "self" else rule["clip"] == [0.0, 1.0]
    assert "mean" not in json.loads((tmp_path / "out" / "config.json").read_text())


@torch.no_grad()
@pytest.mark.parametrize("family", ["mae", "maskfeat", "crossmae"])
def test_timm_files_hold_the_whole_encoder(
    family: str, store: Store, save: Callable[..., Trained], tmp_path: Path
) -> None:
    """Seen through an independent vision transformer that reads timm's layout."""
    trained = save(family)
    export_run(store, family, "timm", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    weights = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert ("norm.weight" in weights) == config["model_args"]["final_norm"]
    assert ("cls_token" in weights) == config["model_args"]["class_token"]
    encoder = frozen_encoder(weights, heads=config["model_args"]["num_heads"])
    seen = encode_tokens(encoder, trained.inputs(raw(trained)))
    assert far(seen, features(trained)) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("family", "channels"), [("mae", 3), ("mae", 4), ("maskfeat", 3)])
def test_timm_builds_it_and_sees_the_same(
    family: str, channels: int, store: Store, save: Callable[..., Trained], tmp_path: Path
) -> None:
    try:
        import timm
    except ImportError as error:
        pytest.skip(f"timm cannot be used here ({error.name} is missing)")
    trained = save(family, "model.norm_input=unit", channels=channels)
    export_run(store, family, "timm", tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    pixels = trained.inputs(raw(trained))
    assert far(model(pixels), features(trained).mean(1)) <= 1e-5
    seen = model.forward_features(pixels)[:, model.num_prefix_tokens :]
    assert far(seen, features(trained)) <= 1e-5


REFUSED = [(f, "timm") for f in ("videomae", "mae_st", "satmae_group", "micromae", "camae")]
REFUSED += [
    (f, "hf") for f in ("maskfeat", "crossmae", "mae_st", "satmae_group", "micromae", "camae")
]


@pytest.mark.parametrize(("family", "to"), REFUSED)
def test_an_encoder_without_a_class_there_is_refused(
    family: str, to: str, store: Store, save: Callable[..., Trained], tmp_path: Path
) -> None:
    save(family)
    with pytest.raises(ValueError, match=f"of the family {family}; .*--to headrace"):
        export_run(store, family, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@torch.no_grad()
@pytest.mark.parametrize("family", sorted(MODELS))
def test_every_family_comes_back_from_its_own_export(
    family: str, store: Store, save: Callable[..., Trained], tmp_path: Path
) -> None:
    trained = save(family)
    export_run(store, family, "headrace", tmp_path / "out")
    again = load_exported(tmp_path / "out")
    assert (again.run, again.step, again.recipe) == (family, STEP, trained.recipe)
    found, wanted = again.model.state_dict(), trained.model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "to"), [("mae", "timm"), ("mae", "hf"), ("videomae", "hf"), ("camae", "headrace")]
)
def test_an_export_begins_another_run(
    family: str, to: str, store: Store, save: Callable[..., Trained], tmp_path: Path
) -> None:
    trained = save(family)
    export_run(store, family, to, tmp_path / "out")
    fresh = make_trainer(trained.recipe, trained.about, Place(0, 1, torch.device("cpu")))
    load_weights(fresh.model, tmp_path / "out")
    found = fresh.model.eval().features(trained.inputs(raw(trained)))
    assert torch.equal(found, features(trained))


def test_files_of_others_are_not_written_over(
    store: Store, save: Callable[..., Trained], tmp_path: Path
) -> None:
    save("mae")
    folder = tmp_path / "out"

    def names() -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r"thesis\.tex\. Empty it"):
            export_run(store, "mae", "timm", folder, overwrite=overwrite)
    (folder / "thesis.tex").unlink()
    export_run(store, "mae", "timm", folder)
    before = names()
    with pytest.raises(FileExistsError, match=r"config\.json.*Add --overwrite"):
        export_run(store, "mae", "timm", folder)
    assert names() == before
    export_run(store, "mae", "hf", folder, overwrite=True)
    assert names() == ["config.json", "model.safetensors", "preprocessor_config.json"]


def test_a_mistake_is_named(store: Store, save: Callable[..., Trained], tmp_path: Path) -> None:
    save("mae")
    calls: list[tuple[dict[str, Any], str]] = [
        ({"run": "none"}, "run none: there is none"),
        ({"to": "onnx"}, "layout 'onnx' is unknown. Known: timm, hf, headrace"),
        ({"to": "timm", "decoder": True}, "timm has no class with a decoder"),
    ]
    for words, message in calls:
        with pytest.raises(ValueError, match=message):
            export_run(store, output=tmp_path / "out", **{"run": "mae", "to": "hf", **words})
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_wrote(
    store: Store, save: Callable[..., Trained], tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from flows.command import app

    save("mae")
    words = ["export", "mae", "--to", "timm", "--output", str(tmp_path / "out")]
    words += ["--store", store.uri, "--direct"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert {"config.json", "model.safetensors"} == {Path(file).name for file in told["files"]}
    assert all(Path(file).is_file() for file in told["files"])
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 1
    assert again.stdout == "" and "Add --overwrite" in again.stderr
