"""HOG against SlowFast's MaskFeat, LocalMIM and FG-MAE; numpy and torch versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from preprocessing.hog import gaussian_window, hog_cells, hog_targets
from preprocessing.hog_torch import hog_cells_torch, hog_targets_torch
from preprocessing.indices import ndi
from preprocessing.indices_torch import ndi_torch
from preprocessing.patches import normalise_patches, patchify
from training.inputs import IMAGENET_MEAN, IMAGENET_STD

Read = Callable[[str], dict[str, NDArray[Any]]]
Cells = Callable[..., NDArray[np.float32]]

BANDS = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12"]


def cells_numpy(x: NDArray[np.float32], cell: int, bins: int, window: int) -> NDArray[np.float32]:
    """Return (N, C, bins, h, w) of (N, C, H, W) by the numpy version."""
    return hog_cells(x.transpose(0, 2, 3, 1), cell, bins, window).transpose(0, 3, 4, 1, 2)


def cells_torch(x: NDArray[np.float32], cell: int, bins: int, window: int) -> NDArray[np.float32]:
    """Return the same by the torch version."""
    return hog_cells_torch(torch.from_numpy(x), cell, bins, window).numpy()


def targets_torch(image: NDArray[np.float32], *settings: int) -> NDArray[np.float32]:
    """Return the descriptors of (H, W, C) by the torch version."""
    chw = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return hog_targets_torch(chw[None], *settings)[0].numpy()


def assert_nearly_all(found: NDArray[Any], wanted: NDArray[Any], share: float = 5e-4) -> None:
    """Check that all but `share` of the entries agree to 1e-5: an angle may fall on a bin edge."""
    assert found.shape == wanted.shape
    off = np.abs(found - wanted) > 1e-5
    assert off.mean() <= share, f"{off.sum()} of {off.size} entries differ"


BOTH = pytest.mark.parametrize("cells", [cells_numpy, cells_torch])
BOTH_TARGETS = pytest.mark.parametrize("targets", [hog_targets, targets_torch])


@BOTH
def test_maskfeat_cells(golden: Read, cells: Cells) -> None:
    z = golden("maskfeat_hog")
    window = len(z["gkern16"])
    for x, wanted, edge in (
        ("x_full", "hog_full", 0),
        ("x_crop", "hog_crop", 0),
        ("x_crop", "hog_pool4_crop", 0),
        ("x_crop", "hog_gauss16_crop", window),
    ):
        cell = z[x].shape[-1] // z[wanted].shape[-1]
        assert_nearly_all(cells(z[x], cell, z[wanted].shape[2], edge), z[wanted])


def sizes(x: NDArray[Any], hog: NDArray[Any], tokens: int) -> tuple[int, int, int]:
    """Return the patch, the cell and the bins of (…, H, W) from its (N, C, bins, h, w)."""
    patch = round((x.shape[-1] * x.shape[-2] / tokens) ** 0.5)
    return patch, x.shape[-1] // hog.shape[-1], hog.shape[2]


def test_maskfeat_ties_on_purpose(golden: Read) -> None:
    z = golden("maskfeat_hog")
    frame = z["x_quant_u8"].transpose(2, 0, 1)[None]
    shown = ((frame / 255.0).reshape(3, -1).T - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(shown.T.reshape(frame.shape), z["x_quant"], atol=1e-5)
    cell = frame.shape[-1] // z["hog_quant"].shape[-1]
    found = cells_numpy(frame, cell, z["hog_quant"].shape[2], 0)
    difference = np.abs(found - z["hog_quant"])
    assert (difference <= 1e-4).mean() >= 0.9
    assert difference.mean() <= 5e-4


def test_maskfeat_window(golden: Read) -> None:
    wanted = golden("maskfeat_hog")["gkern16"]
    np.testing.assert_allclose(gaussian_window(len(wanted)), wanted, atol=1e-7)


@BOTH_TARGETS
def test_maskfeat_targets(golden: Read, targets: Cells) -> None:
    z = golden("maskfeat_hog")
    known = sizes(z["x_crop"], z["hog_crop"], len(z["patch_targets_all_crop"]))
    found = targets(z["x_crop"][0].transpose(1, 2, 0), *known)
    assert_nearly_all(found, z["patch_targets_all_crop"])
    masked = found[z["mask"][0]]
    assert_nearly_all(masked, z["patch_targets_masked_crop"])
    loss = np.mean((masked - z["pred_masked"]) ** 2)
    np.testing.assert_allclose(loss, z["loss_masked"], rtol=1e-5)


@BOTH_TARGETS
def test_maskfeat_clip_uses_every_second_frame(golden: Read, targets: Cells) -> None:
    z = golden("maskfeat_hog")
    frames = z["video"][0].transpose(1, 2, 3, 0)[::2]
    known = sizes(z["x_crop"], z["hog_crop"], len(z["patch_targets_all_crop"]))
    found = np.concatenate([targets(frame, *known) for frame in frames])
    assert_nearly_all(found, z["video_targets"])


@BOTH_TARGETS
def test_localmim_scales(golden: Read, targets: Cells) -> None:
    z = golden("localmim_hog")
    image = z["x"][0].transpose(1, 2, 0)
    cells = sorted(int(name.removeprefix("hog_pool")) for name in z if name.startswith("hog_pool"))
    bins = z[f"hog_pool{cells[0]}"].shape[2] // image.shape[2]
    for cell in cells:
        assert_nearly_all(targets(image, cell, cell, bins), z[f"hog_pool{cell}"][0])


def dithered(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the float image that golden/README.md defines from stored bytes."""
    x = stored.astype(np.float64)
    wave = 0.5 * np.sin(0.731 * np.arange(x.size))
    return ((x + wave.reshape(x.shape)) / 255).astype(np.float32)


def masked_loss(targets: NDArray[np.float32], mask: NDArray[Any], *, norm: bool) -> float:
    """Return FG-MAE's masked mean against the pseudo-prediction sin(0.37 i)."""
    prediction = np.sin(0.37 * np.arange(targets.size)).reshape(targets.shape)
    wanted = torch.from_numpy(targets)
    wanted = normalise_patches(wanted) if norm else wanted
    error = ((prediction - wanted.numpy()) ** 2).mean(-1)
    return float((error * mask).sum() / mask.sum())


@BOTH_TARGETS
def test_fgmae_hog(golden: Read, targets: Cells) -> None:
    z = golden("fgmae_ndi_hog")
    image = dithered(z["s2_u8_chw"]).transpose(1, 2, 0)
    found = targets(image, 16, 8, 9, 16)
    assert_nearly_all(found[z["patch_index"]], z["hog_targets_rows"])
    for norm, name in ((True, "loss_hog"), (False, "loss_hog_unnorm")):
        np.testing.assert_allclose(masked_loss(found, z["mask"][0], norm=norm), z[name], rtol=1e-4)
    cells = hog_cells(image[None], 8, 9, 16)[0].transpose(2, 3, 0, 1)
    assert_nearly_all(cells, z["hog_2d"])


@BOTH_TARGETS
def test_fgmae_sar_hog(golden: Read, targets: Cells) -> None:
    z = golden("fgmae_ndi_hog")
    image = dithered(z["sar_u8_chw"]).transpose(1, 2, 0)
    assert_nearly_all(targets(image, 16, 8, 9, 16), z["sar_hog_targets"])
    rows = z["sar_hog_pool7_rows"]
    assert_nearly_all(targets(image, 14, 7, 9, 16)[: len(rows)], rows)


def indices_torch(image: NDArray[np.float32], bands: list[str]) -> NDArray[np.float32]:
    """Return the indices of (C, H, W) by the torch version."""
    return ndi_torch(torch.from_numpy(image)[None], bands)[0].numpy()


@pytest.mark.parametrize("indices", [ndi, indices_torch])
def test_fgmae_indices(golden: Read, indices: Cells) -> None:
    z = golden("fgmae_ndi_hog")
    found = indices(dithered(z["s2_u8_chw"]), BANDS)
    crop = z["ndi_2d_crop"]
    np.testing.assert_allclose(found[:, : crop.shape[1], : crop.shape[2]], crop, atol=1e-5)
    targets = patchify(torch.from_numpy(found)[None], 16)[0].numpy()
    np.testing.assert_allclose(targets[z["patch_index"]], z["ndi_targets_rows"], atol=1e-5)
    for norm, name in ((True, "loss_ndi"), (False, "loss_ndi_unnorm")):
        np.testing.assert_allclose(
            masked_loss(targets, z["mask"][0], norm=norm), z[name], rtol=1e-4
        )
