"""Masks against the released code of their papers."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from preprocessing.mask_block import block_mask, cube_mask, ijepa_block_sizes, ijepa_blocks
from preprocessing.mask_content import (
    SIGMAS,
    colour_mask,
    coloured_noise,
    hpm_hard_count,
    hpm_mask,
)
from preprocessing.mask_motion import (
    gaussian_map,
    mask_volume,
    select_tokens,
    warp_map,
    warp_steps,
)
from preprocessing.mask_random import (
    dirichlet_mask,
    hidden_random_mask,
    running_cells,
    tube_mask,
)
from preprocessing.mask_torch import everest_masks

Read = Callable[[str], dict[str, NDArray[Any]]]
Ratio = Callable[[NDArray[Any]], float]
RNG = np.random.default_rng(0)


def test_mgmae_base_map(golden: Read) -> None:
    z = golden("mgmae_mask_volume")
    height, width = z["base_map"].shape[2:]
    patch = round((height * width / z["mask_volume_corrected"].shape[2]) ** 0.5)
    for centres, wanted in zip(z["base_centres_rc"], z["base_map"][:, 0], strict=True):
        found = gaussian_map(centres.astype(np.float64), wanted.shape, patch)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_mgmae_base_map_of_added_peaks(golden: Read) -> None:
    """The file has no centres of this map: they are the patches that make it, or none do."""
    z = golden("mgmae_mask_volume")
    wanted, count = z["base_map_sum_method"], z["base_centres_rc"].shape[1]
    patches = z["mask_volume_corrected"].shape[2]
    patch = round((wanted.size / patches) ** 0.5)
    columns = wanted.shape[1] // patch
    places = np.stack(np.divmod(np.arange(patches), columns), axis=1) * patch + (patch - 1) / 2
    gaps = (
        np.abs(gaussian_map(places[list(one)], wanted.shape, patch, total=True) - wanted).max()
        for one in combinations(range(patches), count)
    )
    assert min(gaps) <= 1e-5


def test_mgmae_single_warp(golden: Read) -> None:
    z = golden("mgmae_mask_volume")
    index, weights = warp_steps(z["warp_flow"].transpose(0, 2, 3, 1))
    found = warp_map(z["warp_in"][0, 0], index[0], weights[0])
    np.testing.assert_allclose(found, z["warp_out"][0, 0], atol=1e-5)


def flows_of(
    pairs: NDArray[Any], start: int, forward: NDArray[Any], backward: NDArray[Any]
) -> NDArray[Any]:
    """Return the flows (T-1, H, W, 2) of the frame pairs that the released code asks for, which
    begins at the base frame and walks away from it.
    """
    gaps = pairs.min(1).tolist()
    assert gaps == [*range(start - 1, -1, -1), *range(start, len(forward))]
    asked = {
        gap: (forward if a < b else backward)[gap] for gap, (a, b) in zip(gaps, pairs, strict=True)
    }
    return np.stack([asked[gap] for gap in range(len(forward))])


@pytest.mark.parametrize(
    ("name", "base", "released", "fill", "keep"),
    [
        ("released", "middle", True, True, "tubelet"),
        ("corrected", "middle", False, True, "tubelet"),
        ("base_first", "first", False, True, "tubelet"),
        ("base_first_topk_all", "first", False, True, "clip"),
        ("base_first_nofill", "first", False, False, "tubelet"),
    ],
)
def test_mgmae_volume(
    golden: Read, ratio_of: Ratio, name: str, base: str, released: bool, fill: bool, keep: str
) -> None:
    z = golden("mgmae_mask_volume")
    ratio = ratio_of(z["mask_ratio"])
    wanted = z[f"mask_volume_{name}"]
    for clip in range(len(wanted)):
        forward, backward = (z[n][clip].transpose(0, 2, 3, 1) for n in ("flow_fwd", "flow_bwd"))
        start = (len(backward) + 1) // 2 if base == "middle" else 0
        if released:
            forward = backward = flows_of(z["released_pairs"], start, forward, backward)
        maps = mask_volume(z["base_map"][clip, 0], start, backward, forward, fill=fill)
        if f"frame_maps_{name}" in z:
            np.testing.assert_allclose(maps, z[f"frame_maps_{name}"][clip], atol=1e-5)
        t, patches = wanted.shape[1:]
        edge = round((patches * maps.shape[1] / maps.shape[2]) ** 0.5)
        mask = select_tokens(maps, (t, edge, patches // edge), ratio, keep=keep)
        np.testing.assert_array_equal(mask, wanted[clip].reshape(-1))


def test_tube_and_random_counts(golden: Read) -> None:
    z = golden("tube_masks")
    for name, wanted in z.items():
        kind, t, h, w, r = re.fullmatch(
            r"(tube|random)_t(\d+)_h(\d+)_w(\d+)_r(\d+)_seed\d+", name
        ).groups()  # type: ignore[union-attr]
        grid, ratio = (int(t), int(h), int(w)), int(r) / 100
        draw = tube_mask if kind == "tube" else hidden_random_mask
        found = draw(grid, ratio, RNG).reshape(wanted.shape)
        assert found.sum() == wanted.sum()
        if kind == "tube":
            assert (wanted == wanted[0]).all()
            assert (found == found[0]).all()
            assert (found.sum(1) == wanted.sum(1)).all()


def test_running_cells(golden: Read) -> None:
    for name, wanted in golden("running_cell").items():
        t, h, w, r = map(int, re.fullmatch(r"t(\d+)_h(\d+)_w(\d+)_r(\d+)", name).groups())  # type: ignore[union-attr]
        for phase in range(4):
            found = running_cells((t, h, w), r / 100, phase)
            np.testing.assert_array_equal(found, wanted[phase].reshape(-1))


def block_like(name: str, one: NDArray[Any]) -> NDArray[np.bool_]:
    """Draw a mask of the settings that a name tells, such as beit_14_75_min16 or maskfeat_…_r40."""
    numbers = [int(n) for n in re.findall(r"(?<=_|[a-z])(\d+)", name)]
    if name.startswith("beit"):
        return block_mask(one.shape, numbers[-2], numbers[-1], RNG, exact=False)
    count = round(one.size * numbers[-1] / 100)
    if "cube" in name:
        return cube_mask(one.shape, count, RNG, exact=False)
    return block_mask(one.shape, count, count // 5, RNG, exact=False)


def test_block_statistics(golden: Read) -> None:
    z = golden("block_masks")
    names = [name for name in z if not name.startswith("ijepa")]
    assert len(names) >= 3
    for name in names:
        wanted = z[name].reshape(len(z[name]), -1)
        found = np.stack([block_like(name, z[name][0]) for _ in range(256)])
        assert found.sum(1).max() <= wanted.sum(1).max()
        assert abs(found.sum(1).mean() - wanted.sum(1).mean()) < 2
        # Blocks hang together: neighbours are alike far more often than chance would have it.
        shape = z[name].shape[1:]
        alike = [
            (m.reshape(-1, *shape)[..., 1:] == m.reshape(-1, *shape)[..., :-1]).mean()
            for m in (found, wanted.astype(bool))
        ]
        assert abs(alike[0] - alike[1]) < 0.03


def test_ijepa_sizes_and_structure(golden: Read) -> None:
    z = golden("block_masks")
    grid = next(z[name] for name in z if name.startswith("beit")).shape[1:]
    for count, wanted in enumerate(z["ijepa_block_sizes_h_w_pred_enc"]):
        generator = torch.Generator().manual_seed(count)
        first, second = (torch.rand(1, generator=generator).item() for _ in range(2))
        sizes = ijepa_block_sizes(grid, first, second)
        assert [*sizes[0], *sizes[1]] == wanted.tolist()
        predicted, context = ijepa_blocks(grid, sizes, RNG)
        assert len(predicted) == len(z[f"ijepa_pred_{count}"])
        assert {len(block) for block in predicted} == {sizes[0][0] * sizes[0][1]}
        # A context of the reference is cut to the shortest of its batch, so it may be no rectangle.
        for targets, kept in [
            (predicted, context),
            *zip(z[f"ijepa_pred_{count}"].swapaxes(0, 1), z[f"ijepa_enc_{count}"][0], strict=True),
        ]:
            assert len(kept) > 10
            assert not set(kept) & set(np.concatenate(targets))
            for block, size in ((kept, sizes[1]), *((block, sizes[0]) for block in targets)):
                rows, columns = np.divmod(block, grid[1])
                assert np.ptp(rows) < size[0] and np.ptp(columns) < size[1]
        # The released exclusive bound: no block reaches the last row or column.
        assert all(
            np.divmod(block, grid[1])[axis].max() < grid[axis] - 1
            for block in predicted
            for axis in (0, 1)
        )


@pytest.mark.parametrize("colour", SIGMAS)
def test_colour_noise_and_masks(golden: Read, colour: str) -> None:
    z = golden("colormae")
    narrow, wide, red, blue = (float(s) for s in z["sigma_green_narrow_wide_red_blue"])
    known = {"red": (red,), "blue": (blue,)}.get(colour, (narrow, wide))
    assert len(SIGMAS[colour]) == len(known)
    np.testing.assert_allclose(coloured_noise(z["white"], colour, known), z[colour], atol=1e-5)
    wanted = z[f"mask_{colour}"].astype(bool)
    visible = z[f"ids_keep_{colour}"]
    # Half a token more than are kept, so that no rounding of the ratio can lose one.
    ratio = 1 - (visible.shape[1] + 0.5) / wanted.shape[1]
    mask = colour_mask(z[f"window_{colour}"], ratio)
    np.testing.assert_array_equal(mask, wanted)
    shown = np.nonzero(~mask)[1].reshape(visible.shape)
    np.testing.assert_array_equal(shown, np.sort(visible, axis=1))
    # What puts the tokens back in order: the visible ones come first.
    np.testing.assert_array_equal(mask, z[f"ids_restore_{colour}"] >= visible.shape[1])


def test_multimae_counts(golden: Read) -> None:
    z = golden("multimae_masks")
    names = sorted(name for name in z if name.startswith("mask_"))
    area, keep, kinds = z[names[0]].shape[1], z["ids_keep"].shape[1], len(names)
    draws = [~dirichlet_mask((kinds, 1, area), keep, RNG) for _ in range(256)]
    shares = np.stack(draws).reshape(-1, kinds, area).sum(2)
    assert (shares.sum(1) == keep).all()
    stored = np.stack([area - z[name].sum(1, dtype=int) for name in names], axis=1)
    # A flat Dirichlet: shares spread widely, far from an even split.
    assert abs(shares.std() - stored.std()) < 0.25 * stored.std()


def test_everest(golden: Read, ratio_of: Ratio) -> None:
    z = golden("everest")
    not_input, not_decoded = everest_masks(
        torch.from_numpy(z["tokens"]),
        torch.from_numpy(z["noise"]),
        ratio_of(z["mcm_ratio"]),
        ratio_of(z["masking_ratio"]),
    )
    np.testing.assert_array_equal(not_input, z["input_mask"])
    np.testing.assert_array_equal(not_decoded, z["target_mask"])


def test_hpm(golden: Read, ratio_of: Ratio) -> None:
    z = golden("hpm")
    ratio = ratio_of(z["mask_ratio"])
    for name in z:
        if not (found := re.fullmatch(r"mask_epoch(\d+)of(\d+)", name)):
            continue
        epoch, epochs = map(int, found.groups())
        for difficulty, wanted in zip(z["loss_pred"], z[name], strict=True):
            hard = hpm_hard_count(len(difficulty), ratio, epoch, epochs)
            assert hard == z[f"n_hard_epoch{epoch}"]
            mask = hpm_mask(difficulty, ratio, hard, RNG)
            assert mask.sum() == wanted.sum()
            assert mask[np.argsort(-difficulty)[:hard]].all()
