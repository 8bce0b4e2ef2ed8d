"""Masks that follow motion, of a whole batch on a device: bit for bit those of one clip in numpy.

The tolerance is none: on a GPU, too, each number is made by the same single operations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from preprocessing.mask_motion import gaussian_map, mask_volume
from preprocessing.mask_motion_torch import make_masks, mask_volumes
from preprocessing.masks import MaskConfig, make_mask
from preprocessing.randomness import borrowed, generator
from tests.unit.preprocessing.devices import DEVICES

GRID, K, CLIPS = (4, 7, 7), 2, 6


def flows(seed: int, frames: int = 8, clips: int = CLIPS) -> np.ndarray:
    """Smooth and wild motion by turns; some of it leaves the frame."""
    rng = np.random.default_rng(seed)
    strength = np.array([0, 0.3, 2, 9, 40, 1e4])[:clips, None, None, None, None]
    shape = (clips, frames - 1, GRID[1] * K, GRID[2] * K, 2)
    return (rng.normal(size=shape) * strength).astype(np.float32)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("base", [0, 4, 7])
@pytest.mark.parametrize("fill", [True, False])
def test_volumes_of_a_batch_are_those_of_each_clip(device: str, base: int, fill: bool) -> None:
    backward, forward = flows(1), flows(2)
    rng = np.random.default_rng(3)
    edge = GRID[1] * K
    maps = np.stack([gaussian_map(rng.random((9, 2)) * edge, (edge, edge), K)] * CLIPS)
    together = mask_volumes(
        *(torch.from_numpy(maps).to(device), base),
        *(torch.from_numpy(flow).to(device) for flow in (backward, forward)),
        cell=8.0,
        fill=fill,
    )
    for clip in range(CLIPS):
        alone = mask_volume(maps[clip], base, backward[clip], forward[clip], cell=8.0, fill=fill)
        assert np.array_equal(together[clip].cpu().numpy(), alone)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "mgmae"},
        {"kind": "mgmae", "base": "random", "keep": "clip", "fill": "none"},
        {"kind": "mgmae", "base": "first"},
        {"kind": "mgmae", "released": True},
        {"kind": "mgmae", "source": "motion"},
        {"kind": "mgm", "source": "motion"},
        {"kind": "tube"},
    ],
)
def test_masks_of_a_batch_are_those_of_each_sample(device: str, settings: dict) -> None:
    config = MaskConfig(ratio=0.8, **settings)
    backward, forward = flows(4), flows(5)
    seen: list[dict[str, Any]] = [{} for _ in range(CLIPS)]
    if config.columns == ("flow",):
        seen = [{"backward": b, "forward": f} for b, f in zip(backward, forward, strict=True)]
        if config.base == "first":
            seen = [{"backward": one["backward"]} for one in seen]
    elif config.columns:
        seen = [{"motion": np.concatenate([b[:1] * 0, b])} for b in backward]
    masks = make_masks(
        config,
        GRID,
        (borrowed(1, 2, sample, "mask") for sample in range(CLIPS)),
        seen,
        cell=8.0,
        device=torch.device(device),
    )
    for sample, mask in enumerate(masks):
        rng = generator(1, 2, sample, "mask")
        assert np.array_equal(mask, make_mask(config, GRID, rng, cell=8.0, **seen[sample]))
    assert len({mask.tobytes() for mask in masks}) > 1


def test_a_batch_without_the_flow_that_it_needs_is_refused() -> None:
    config = MaskConfig(kind="mgmae", ratio=0.8)
    for known, told in (
        ({}, "flow of this sample is missing"),
        ({"backward": flows(1)[0]}, "base"),
    ):
        rngs = (generator(0, 0, 0, "mask") for _ in range(1))
        with pytest.raises(ValueError, match=told):
            make_masks(config, GRID, rngs, [known], cell=8.0, device=torch.device("cpu"))
