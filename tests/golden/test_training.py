"""Position tables, schedules, parameter groups, losses and the k-NN probe against their
references."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training import schedules
from training.difficulty import absolute_loss, relative_loss
from training.inputs import InputNorm
from training.models import positions
from training.models.layout import PixelLayout
from training.objectives import fourier_images, masked_mean, token_errors
from training.optim import LARS, split_decay
from training.parity import fourier_tokens
from training.pixel_targets import patchify, pixel_targets, unpatchify
from training.probes import knn_votes

Arrays = dict[str, NDArray[Any]]
Read = Callable[[str], Arrays]


def tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array))


def numbers(name: str) -> dict[str, int]:
    """Return the sizes that the name of an array tells: d48_g4_cls1 has d 48, g 4, cls 1."""
    import re

    return {letters: int(digits) for letters, digits in re.findall(r"([a-z]+)(\d+)", name)}


def near(ours: Tensor | NDArray[Any], stored: NDArray[Any], bound: float) -> None:
    assert np.abs(np.asarray(ours) - stored).max() <= bound


def test_sincos_2d(golden: Read) -> None:
    stored = golden("sincos_2d")
    for name in (name for name in stored if name.startswith("d") and "_g" in name):
        size = numbers(name)
        table = positions.sincos_2d(size["d"], size["g"], size["g"], cls=bool(size["cls"]))
        near(table, stored[name], 1e-6)
    rows = stored["vit_g14_rows_index"]
    width = stored["vit_g14_cls1_rows"].shape[1]
    table = positions.sincos_2d(width, 14, 14, cls=True)
    near(table[rows], stored["vit_g14_cls1_rows"], 1e-6)
    name = next(name for name in stored if name.startswith("emb_1d"))
    near(positions.sincos_1d(numbers(name)["d"], stored["pos_1d"]), stored[name], 1e-6)


def test_tables_move_to_another_grid(golden: Read) -> None:
    stored = golden("sincos_2d")
    old, new = (round((stored[n].shape[1] - 1) ** 0.5) for n in ("interp_in", "interp_out"))
    moved = positions.resize_table(tensor(stored["interp_in"]), (old, old), (new, new))
    near(moved, stored["interp_out"], 1e-5)


def test_other_tables(golden: Read) -> None:
    stored = golden("sincos_3d")
    near(positions.sinusoid(*stored["videomae_table"].shape[::-1]), stored["videomae_table"], 1e-6)
    name = next(n for n in stored if n.startswith("videomae_") and n.endswith("_rows"))
    tokens, width = (int(part) for part in name.split("_")[1].split("x"))
    rows = positions.sinusoid(width, tokens)[stored["videomae_rows_index"]]
    near(rows, stored[name], 1e-6)
    for name in (name for name in stored if name.startswith("slowfast3d")):
        size = numbers(name.removeprefix("slowfast3d"))
        cls = bool(size["cls"])
        near(
            positions.sincos_3d(size["d"], size["t"], size["g"], size["g"], cls=cls),
            stored[name],
            1e-6,
        )
    name = next(name for name in stored if name.startswith("micro"))
    size = numbers(name)
    table = positions.sincos_microscopy(
        size["d"], size["len"], size["len"], repeats=size["mod"], cls=bool(size["cls"])
    )
    near(table[None], stored[name], 1e-5)
    name = next(name for name in stored if name.startswith("satmae_channel"))
    near(positions.sincos_groups(*stored[name].shape[::-1]), stored[name], 1e-6)


def test_mae_schedule(golden: Read) -> None:
    stored = golden("mae_optim")
    peak, low, warmup, total = (round(float(v), 9) for v in stored["cfg_lr_min_warm_total"])
    ours = [
        schedules.cosine(e, peak=peak, low=low, warmup=warmup, total=total) for e in stored["epoch"]
    ]
    np.testing.assert_allclose(ours, stored["lr"], rtol=1e-6)
    np.testing.assert_allclose(np.multiply(ours, 0.5), stored["lr_scaled_half"], rtol=1e-6)


def test_weight_decay_split(golden: Read) -> None:
    stored, weights = golden("mae_optim"), golden("mae_tiny")
    model = nn.Module()
    frozen = {"pos_embed", "decoder_pos_embed"}
    for name in (name for name in weights if name.startswith("param/")):
        place: nn.Module = model
        *parents, last = name.removeprefix("param/").split(".")
        for part in parents:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        place.register_parameter(last, nn.Parameter(tensor(weights[name]), last not in frozen))
    decay, plain = split_decay(model)
    assert sorted(decay) == sorted(stored["decay_names"].tolist())
    assert sorted(plain) == sorted(stored["no_decay_names"].tolist())
    decay, _ = split_decay(model, decay_tokens=False)
    assert not {"cls_token", "mask_token"} & set(decay)


def test_lars(golden: Read) -> None:
    stored = golden("mae_optim")
    matrix, bias = (nn.Parameter(tensor(stored[name])) for name in ("lars_w0", "lars_b0"))
    optimizer = LARS([matrix, bias], lr=0.1, weight_decay=float(stored["lars_wd"]))
    steps = sum(name.startswith("lars_gw") for name in stored)
    for step in range(steps):
        matrix.grad, bias.grad = (tensor(stored[f"lars_g{kind}{step}"]) for kind in "wb")
        optimizer.step()
        near(matrix.detach(), stored[f"lars_w{step + 1}"], 1e-6)
        near(bias.detach(), stored[f"lars_b{step + 1}"], 1e-6)


def test_other_schedules(golden: Read) -> None:
    stored = golden("lr_schedules")
    peak, low, epochs, each, warm = stored["videomae_cfg_base_final_epochs_iters_warmup"].tolist()
    ours = schedules.videomae_table(peak, low, int(epochs * each), int(warm * each))
    np.testing.assert_allclose(ours, stored["videomae"], rtol=1e-9)
    peak, end, start, warm, total = stored["slowfast_cfg_base_end_start_warm_max"].tolist()
    ours = [
        schedules.slowfast(e, peak=peak, low=end, start=start, warmup=warm, total=total)
        for e in stored["slowfast_epoch"]
    ]
    np.testing.assert_allclose(ours, stored["slowfast"], rtol=1e-9)


def test_ijepa_schedules(golden: Read) -> None:
    """A line and a cosine again; the file tells no rates, its own first and last ones do."""
    stored = golden("lr_schedules")
    (total, warm), rates = stored["ijepa_cfg_T_warm"].tolist(), stored["ijepa_lr"]
    share = 1 / warm
    start = (rates[0] - share * rates.max()) / (1 - share)
    times, ends = range(1, int(total) + 1), {"peak": rates.max(), "low": rates[-1]}
    ours = [schedules.slowfast(t, start=start, warmup=warm, total=total, **ends) for t in times]
    np.testing.assert_allclose(ours, rates, rtol=1e-9)
    decay, height = stored["ijepa_wd"], 0.5 * (1 + math.cos(math.pi / total))
    first = decay[-1] + (decay[0] - decay[-1]) / height
    ours = [schedules.cosine(t, peak=first, low=decay[-1], warmup=0, total=total) for t in times]
    np.testing.assert_allclose(ours, decay, rtol=1e-9)


def test_infinite_schedule(golden: Read) -> None:
    stored = golden("lr_schedules")
    name = "inf_cfg_iters_epochs_warm_cool_const_max_constlr_min"
    each, epochs, warm, cool, hold, peak, constant, low = stored[name].tolist()
    total = int(each * epochs)
    for name in (name for name in stored if name.startswith("inf_") and "_task" in name):
        cooldown = name.removeprefix("inf_").split("_infinite")[0].removesuffix("_cooldown")
        cooldown = "linear" if cooldown == "constant" else cooldown
        ours = [
            schedules.infinite(
                step,
                peak=peak,
                low=low,
                total=total,
                constant=constant,
                bounds=(warm, cool, hold),
                first_task=name.endswith("0"),
                cooldown=cooldown,
            )
            for step in range(total)
        ]
        np.testing.assert_allclose(ours, stored[name], rtol=1e-9, err_msg=name)


def test_pixel_losses_of_mae(golden: Read) -> None:
    stored = golden("mae_norm_pix_loss")
    images = tensor(stored["imgs"])
    edge = images.shape[-1] // round(stored["patches"].shape[1] ** 0.5)
    layout = PixelLayout(patch=edge)
    assert np.array_equal(patchify(images, layout).numpy(), stored["patches"])
    back = unpatchify(tensor(stored["patches"]), layout, images.shape)
    assert np.array_equal(back.numpy(), stored["unpatchified"])
    for norm, name in (("none", "raw"), ("mae", "norm")):
        errors = token_errors(tensor(stored["pred"]), pixel_targets(images, layout, norm))
        np.testing.assert_allclose(errors, stored[f"per_patch_{name}"], rtol=1e-4)
        loss = masked_mean(errors, tensor(stored["mask"]).float())
        assert loss.item() == pytest.approx(float(stored[f"loss_{name}"]), rel=1e-5)


def test_microscopy_losses(golden: Read) -> None:
    stored = golden("microscopy_fft_loss")
    channels = stored["pixels_u8"].shape[1]
    inputs = InputNorm("self", channels, None)(tensor(stored["pixels_u8"]))
    near(inputs, stored["standardised"], 1e-5)
    made = tensor(stored["recon"])
    pictures = fourier_images(made, inputs)
    shown = stored["fft_l1_4d"].shape[1]
    np.testing.assert_allclose(pictures[:, :shown], stored["fft_l1_4d"], rtol=1e-4, atol=2e-2)
    assert pictures.mean().item() == pytest.approx(float(stored["fft_l1_4d_mean"]), rel=1e-4)
    patch = inputs.shape[-1] // round(stored["mask_std"].shape[1] ** 0.5)
    layouts = {
        "std": PixelLayout(patch=patch),
        "ca": PixelLayout(patch=patch, groups=tuple((c,) for c in range(channels))),
    }
    for name, layout in layouts.items():
        target, predicted = patchify(inputs, layout), patchify(made, layout)
        near(target, stored[f"tokens_{name}"], 1e-5)
        mask = tensor(stored[f"mask_{name}"]).float()
        modalities = 1 if name == "std" else channels
        spectrum = fourier_tokens(predicted, target, modalities)
        np.testing.assert_allclose(spectrum[:1], stored[f"fft_tok_{name}"], rtol=1e-4, atol=2e-3)
        parts = [masked_mean(e, mask) for e in (token_errors(predicted, target), spectrum.mean(-1))]
        wanted = [float(stored[f"loss_{kind}_{name}"]) for kind in ("recon", "fourier", "total")]
        total = 0.99 * parts[0] + 0.01 * parts[1]
        for ours, stored_value in zip((*parts, total), wanted, strict=True):
            assert ours.item() == pytest.approx(stored_value, rel=1e-5)


def test_hard_patch_losses(golden: Read) -> None:
    stored = golden("hpm")
    predicted, errors = tensor(stored["learn_pred"]), tensor(stored["learn_target"])
    ours = relative_loss(predicted, errors).item()
    assert ours == pytest.approx(float(stored["learn_loss_relative"]), rel=1e-5)
    ours = absolute_loss(predicted, errors).item()
    assert ours == pytest.approx(float(stored["learn_loss_absolute"]), rel=1e-5)


def test_knn_of_dino(golden: Read) -> None:
    stored = golden("knn_dino")
    known, new = (
        nn.functional.normalize(tensor(stored[n]), dim=1) for n in ("train_feat", "test_feat")
    )
    answers = tensor(stored["test_label"])
    classes = int(max(stored["train_label"].max(), stored["test_label"].max())) + 1
    for name in (name for name in stored if name.startswith("top1_top5_")):
        neighbours = numbers(name.removeprefix("top1_top5_"))["k"]
        votes = knn_votes(
            known, tensor(stored["train_label"]), new, classes=classes, neighbours=neighbours
        )
        ranked = votes.argsort(dim=1, descending=True, stable=True)[:, :5] == answers[:, None]
        ours = [100.0 * ranked[:, :1].any(1).float().mean(), 100.0 * ranked.any(1).float().mean()]
        np.testing.assert_allclose(ours, stored[name], atol=1e-3)
