"""Fields and scenes against their references: whole losses as the loop takes them, and sensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.inputs import InputNorm
from training.models.layout import PixelLayout
from training.models.satmae_time import embed_dates
from training.objectives import Objective
from training.recipe import read_recipe
from training.schedules import one_cycle
from training.seen_targets import seen_width

Read = Callable[[str], dict[str, NDArray[Any]]]
SAR_LOSS = {"hog": "sar_loss_hog"}
FMOW_MEAN = (
    1370.19151926, 1184.3824625, 1120.77120066, 1136.26026392, 1263.73947144, 1645.40315151,
    1846.87040806, 1762.59530783, 1972.62420416, 582.72633433, 14.77112979, 1732.16362238,
    1247.91870117,
)  # fmt: skip
FMOW_STD = (
    633.15169573, 650.2842772, 712.12507725, 965.23119807, 948.9819932, 1108.06650639,
    1258.36394548, 1233.1492281, 1364.38688993, 472.37967789, 14.3114637, 1310.36996126,
    1087.6020813,
)  # fmt: skip
GRD_MEAN, GRD_STD = (-12.54847273, -20.19237134), (5.25697717, 5.91150917)


def test_one_cycle_of_microscopy(golden: Read) -> None:
    wanted = golden("lr_schedules")["onecycle_micro"]
    total, top = len(wanted), int(wanted.argmax()) + 1
    found = [
        one_cycle(step, peak=float(wanted.max()), rise=top, total=total) for step in range(total)
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_bands_are_stretched_to_the_bytes_of_the_reference(golden: Read) -> None:
    stored = golden("satmae_group_tiny")
    wanted = stored["s2_norm_u8"].transpose(2, 0, 1)
    stats = {"mean": FMOW_MEAN, "variance": [std**2 for std in FMOW_STD]}
    seen = InputNorm("stretch", len(wanted), stats)(
        torch.from_numpy(stored["s2_dn_hwc"].transpose(2, 0, 1)[None].copy())
    )
    np.testing.assert_array_equal((seen[0] * 255).round().numpy(), wanted)


def test_radar_is_stretched_to_the_bytes_of_the_reference(golden: Read) -> None:
    stored = golden("fgmae_ndi_hog")
    stats = {"mean": GRD_MEAN, "variance": [std**2 for std in GRD_STD]}
    seen = InputNorm("stretch", 2, stats)(torch.from_numpy(stored["sar_db"])[None])
    np.testing.assert_array_equal((seen[0] * 255).round().numpy(), stored["sar_db_u8"])


@pytest.mark.parametrize("name", ["fgmae_msi", "fgmae_sar"])
def test_fgmae_losses_as_the_loop_takes_them(golden: Read, name: str) -> None:
    stored, recipe = golden("fgmae_ndi_hog"), read_recipe(name)
    image = stored["s2_u8_chw" if name == "fgmae_msi" else "sar_u8_chw"].astype(np.float64)
    dither = 0.5 * np.sin(0.731 * np.arange(image.size)).reshape(image.shape)
    inputs = torch.from_numpy(((image + dither) / 255).astype(np.float32))[None]
    hidden = torch.from_numpy(stored["mask"] > 0)
    tokens = hidden.shape[1]
    batch = {
        "visible": torch.nonzero(~hidden[0])[None, :, 0],
        "decoded": torch.arange(tokens)[None],
    }
    wanted = {"hog": "loss_hog", "ndi": "loss_ndi"} if name == "fgmae_msi" else SAR_LOSS
    for norm, suffix in (("mae", ""), ("none", "_unnorm")):
        if f"{wanted['hog']}{suffix}" not in stored:
            continue
        targets = [replace(target, norm=norm) for target in recipe.target]
        objective = Objective(targets, PixelLayout(patch=recipe.model.patch), recipe.data.bands)
        widths = {t.kind: seen_width(t, inputs.shape[1], recipe.model.patch) for t in recipe.target}
        predictions = {
            kind: torch.sin(0.37 * torch.arange(tokens * width, dtype=torch.float64))
            .float()
            .view(1, tokens, width)
            for kind, width in widths.items()
        }
        total, parts = objective(predictions, batch, inputs)
        for kind, key in wanted.items():
            assert float(parts[kind]) == pytest.approx(float(stored[key + suffix]), rel=1e-4)
        assert float(total) == pytest.approx(sum(map(float, parts.values())), rel=1e-6)


def test_dates_are_embedded_as_in_the_reference(golden: Read) -> None:
    stored = golden("sincos_3d")
    wanted = stored["satmae_ts_embed_enc384"]
    stamps = torch.from_numpy(stored["satmae_ts"]).long()[None]
    np.testing.assert_allclose(embed_dates(stamps, wanted.shape[1])[0], wanted, atol=1e-6)
