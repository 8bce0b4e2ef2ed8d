"""Against transformers' own models: same weights and masks, same loss; weights there and back."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from preprocessing.targets import TargetConfig
from preprocessing.vit import encode_tokens, frozen_encoder
from preprocessing.vit_names import hf_names, timm_names
from training.import_weights import load_weights
from training.inputs import IMAGENET_MEAN, IMAGENET_STD
from training.models.config import ModelConfig, ModelInput
from training.models.families import build_model
from training.objectives import Objective

transformers = pytest.importorskip("transformers")
SIZE, FRAMES, VISIBLE, TOKENS = 32, 4, 0.25, {"mae": 16, "videomae": 32}
ENCODER = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3}
DECODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES = {
    "width": 48, "depth": 3, "heads": 3, "decoder_width": 32, "decoder_depth": 2,
    "decoder_heads": 2, "patch": 8,
}  # fmt: skip


def theirs(family: str, *, norm_pix: bool = True) -> nn.Module:
    """Return a small random model of transformers, every learned weight away from its start."""
    torch.manual_seed(0)
    settings = {
        **ENCODER,
        **{f"decoder_{name}": value for name, value in DECODER.items()},
        "intermediate_size": 4 * 48,
        "decoder_intermediate_size": 4 * 32,
        "image_size": SIZE,
        "patch_size": 8,
        "norm_pix_loss": norm_pix,
        "layer_norm_eps": 1e-6,
    }
    if family == "mae":
        model = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**settings))
    else:
        settings |= {"num_frames": FRAMES, "tubelet_size": 2, "use_mean_pooling": False}
        model = transformers.VideoMAEForPreTraining(transformers.VideoMAEConfig(**settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn(parameter.shape))
    return model.eval()


def ours(family: str, **sizes: int) -> nn.Module:
    torch.manual_seed(1)
    tubelet = 2 if family == "videomae" else 1
    config = ModelConfig(family=family, tubelet=tubelet, **{**SIZES, **sizes})
    frames = FRAMES if family == "videomae" else 1
    data = ModelInput(channels=3, size=SIZE, frames=frames, widths={"pixels": 0})
    return build_model(config, data).eval()


def tokens_of(family: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return noise (2, N) and, of the order that it gives, visible and hidden tokens."""
    noise = torch.rand(2, TOKENS[family], generator=torch.Generator().manual_seed(2))
    order = noise.argsort(1)
    kept = int(TOKENS[family] * VISIBLE)
    return noise, order[:, :kept].sort(1).values, order[:, kept:].sort(1).values


def batch_of(family: str) -> tuple[dict[str, Tensor], Tensor]:
    """Return a batch of raw pixels with its mask, and the normalised inputs."""
    shape = (2, 3, FRAMES, SIZE, SIZE) if family == "videomae" else (2, 3, SIZE, SIZE)
    draw = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
    each = (1, 3) + (1,) * (len(shape) - 2)
    mean, std = (torch.tensor(m).view(each) for m in (IMAGENET_MEAN, IMAGENET_STD))
    _, visible, decoded = tokens_of(family)
    inputs = (pixels.float() / 255 - mean) / std
    return {"pixels": pixels, "visible": visible, "decoded": decoded}, inputs


def their_loss(family: str, model: nn.Module, inputs: Tensor) -> float:
    noise, _, decoded = tokens_of(family)
    if family == "mae":
        return float(model(inputs, noise=noise).loss)
    masked = torch.zeros(noise.shape, dtype=torch.bool).scatter(1, decoded, True)
    return float(model(inputs.transpose(1, 2), bool_masked_pos=masked).loss)


def our_loss(family: str, model: nn.Module, norm: str) -> float:
    batch, inputs = batch_of(family)
    objective = Objective([TargetConfig(kind="pixels", norm=norm)], model.layout)
    predictions = model(inputs, batch["visible"], batch["decoded"])
    return float(objective(predictions, batch, inputs)[0])


@torch.no_grad()
@pytest.mark.parametrize("names", ["files", "memory"])
@pytest.mark.parametrize(
    ("family", "norm"), [("mae", "mae"), ("mae", "none"), ("videomae", "videomae")]
)
def test_loss_is_that_of_transformers(family: str, norm: str, names: str, tmp_path: Path) -> None:
    reference = theirs(family, norm_pix=norm != "none")
    if names == "files":
        reference.save_pretrained(tmp_path)
    else:
        safetensors.torch.save_file(reference.state_dict(), tmp_path / "model.safetensors")
    model = ours(family)
    fresh_loss = our_loss(family, model, norm)
    loaded = load_weights(model, tmp_path)
    assert loaded.fresh == () and loaded.unused == ()
    wanted = their_loss(family, reference, batch_of(family)[1])
    assert our_loss(family, model, norm) == pytest.approx(wanted, rel=1e-5)
    assert fresh_loss != pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("family", ["mae", "videomae"])
def test_names_go_there_and_back(family: str, tmp_path: Path) -> None:
    theirs(family).save_pretrained(tmp_path)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    bare = {"mae": "vit.", "videomae": "videomae."}[family]
    encoder = {n.removeprefix(bare): v for n, v in stored.items() if n.startswith(bare)}
    again = hf_names(timm_names(encoder))
    assert again.keys() == encoder.keys()
    assert all(torch.equal(again[name], encoder[name]) for name in encoder)


@torch.no_grad()
@pytest.mark.parametrize("family", ["mae", "videomae"])
def test_the_column_of_features_sees_what_transformers_sees(family: str, tmp_path: Path) -> None:
    reference = theirs(family)
    reference.save_pretrained(tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    _, inputs = batch_of(family)
    if family == "mae":
        encoder = reference.vit
        encoder.config.mask_ratio = 0.0
        order = torch.arange(16.0).expand(2, -1)
        wanted = encoder(inputs, noise=order).last_hidden_state[:, 1:]
    else:
        wanted = reference.videomae(inputs.transpose(1, 2)).last_hidden_state
    found = encode_tokens(frozen_encoder(weights, heads=3), inputs)
    assert (found - wanted).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("family", ["mae", "videomae", "mae_st"])
def test_official_checkpoints_load_with_their_words_beside_them(
    family: str, tmp_path: Path
) -> None:
    """The released files: {"model": weights, "args": the command line, "epoch": a number}."""
    trained = ours(family) if family != "mae_st" else ours_st(0)
    for parameter in trained.parameters():
        parameter.data.add_(torch.randn(parameter.shape))
    path = tmp_path / "checkpoint-99.pth"
    held = {"model": trained.state_dict(), "epoch": 99, "args": argparse.Namespace(lr=0.1)}
    torch.save(held, path)
    model = ours(family) if family != "mae_st" else ours_st(1)
    assert load_weights(model, path).fresh == ()
    assert all(torch.equal(v, trained.state_dict()[n]) for n, v in model.state_dict().items())


def ours_st(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    data = ModelInput(channels=3, size=SIZE, frames=FRAMES, widths={"pixels": 0})
    return build_model(ModelConfig(family="mae_st", tubelet=2, **SIZES), data)


def test_an_encoder_alone_leaves_the_decoder_as_it_was(tmp_path: Path) -> None:
    """As mae_pretrain_vit_base.pth, which has no decoder."""
    given = {n: v for n, v in ours("mae").state_dict().items() if "decoder" not in n}
    given.pop("mask_token")
    torch.save({"model": given}, tmp_path / "encoder.pth")
    model = ours("mae", decoder_depth=1)
    before = {n: v.clone() for n, v in model.state_dict().items() if "decoder" in n}
    loaded = load_weights(model, tmp_path / "encoder.pth")
    assert set(loaded.fresh) == {n for n in before if n != "decoder_pos_embed"} | {"mask_token"}
    assert all(torch.equal(model.state_dict()[n], v) for n, v in before.items())
    assert torch.equal(model.blocks[2].mlp.fc1.weight, given["blocks.2.mlp.fc1.weight"])


def test_another_encoder_is_refused_by_name(tmp_path: Path) -> None:
    safetensors.torch.save_file(ours("mae").state_dict(), tmp_path / "small.safetensors")
    model = ours("mae", width=24)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"small\.safetensors holds no encoder.*is \(48,\)"):
        load_weights(model, tmp_path / "small.safetensors")
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    with pytest.raises(ValueError, match=r"blocks\.3\.attn\.proj\.bias is missing"):
        load_weights(ours("mae", depth=4), tmp_path / "small.safetensors")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_weights(model, tmp_path / "missing.safetensors")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "touched",))  # type: ignore[return-value]

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth is damaged, or holds more than weights"):
        load_weights(ours("mae"), tmp_path / "evil.pth")
    assert not (tmp_path / "touched").exists()
    (tmp_path / "cut.safetensors").write_bytes(b"\x40" * 100)
    with pytest.raises(ValueError, match=r"cut\.safetensors is damaged"):
        load_weights(ours("mae"), tmp_path / "cut.safetensors")
