"""Targets of the stream, and pixels to tokens and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from preprocessing.hog import hog_targets
from preprocessing.patches import (
    normalise_channels,
    patchify,
    patchify_channel_first,
    patchify_channels,
    patchify_clip,
    unpatchify,
    unpatchify_channels,
    unpatchify_clip,
)
from preprocessing.targets import TargetConfig, target_from_pixels, token_frames

RNG = np.random.default_rng(0)
HOG = TargetConfig(kind="hog")


def test_a_clip_uses_every_tubelet_frame() -> None:
    clip = RNG.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    found = target_from_pixels(clip, HOG, 16, 2)
    assert found.shape == (2 * 4, 108)
    np.testing.assert_array_equal(found[4:], hog_targets(clip[2]))


def test_channels_first_is_said_not_guessed() -> None:
    tile = RNG.integers(0, 65536, (5, 32, 32), dtype=np.uint16)
    found = target_from_pixels(tile, HOG, 16, channels_first=True)
    assert found.shape == (4, 5 * 36)
    np.testing.assert_array_equal(found, hog_targets(tile.transpose(1, 2, 0)))
    assert token_frames(tile, channels_first=True).shape == (1, 32, 32, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "hogs"}, "target.kind is 'hogs'; it must be one of pixels, hog"),
        ({"source": "disk"}, "target.source is 'disk'"),
        ({"norm": "batch"}, "target.norm is 'batch'"),
        ({"cell": 0}, "target has cell=0, bins=9, window=0"),
        ({"window": 1}, "window=1"),
        ({"weight": 0.0}, "target.weight is 0.0"),
        ({"fourier": 1.0}, "target.fourier is 1.0"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TargetConfig(**settings)  # type: ignore[arg-type]


def test_pixels_are_not_made_here() -> None:
    with pytest.raises(ValueError, match="target pixels is not made in the stream"):
        target_from_pixels(np.zeros((16, 16, 3), np.uint8), TargetConfig(), 16)


def test_round_trips() -> None:
    image, clip = torch.rand(2, 3, 8, 12), torch.rand(2, 3, 4, 8, 12)
    assert torch.equal(unpatchify(patchify(image, 4), 4, (2, 3)), image)
    assert torch.equal(unpatchify_channels(patchify_channels(image, 4), 4, (3, 2, 3)), image)
    assert torch.equal(unpatchify_clip(patchify_clip(clip, 4, 2), 4, 2, (2, 2, 3)), clip)


def test_orders_of_values() -> None:
    image, clip = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 4, 8, 8)
    token = patchify(image, 4)[0, 1]
    assert torch.equal(token.view(4, 4, 3), image[0, :, :4, 4:].permute(1, 2, 0))
    token = patchify_channel_first(image, 4)[0, 1]
    assert torch.equal(token.view(3, 4, 4), image[0, :, :4, 4:])
    token = patchify_clip(clip, 4, 2)[0, 4 + 1]
    assert torch.equal(token.view(2, 4, 4, 3), clip[0, :, 2:, :4, 4:].permute(1, 2, 3, 0))


def test_norm_of_each_channel() -> None:
    tokens = torch.rand(2, 5, 4 * 4 * 3)
    split = normalise_channels(tokens, 3).view(2, 5, 16, 3)
    assert split.mean(2).abs().max() < 1e-5
    assert (split.std(2) - 1).abs().max() < 1e-4
    assert torch.equal(normalise_channels(torch.full((1, 1, 48), 0.5), 3), torch.zeros(1, 1, 48))


def test_patches_must_fit() -> None:
    with pytest.raises(ValueError, match="10x8 px do not divide into patches of 4 px"):
        patchify(torch.rand(1, 3, 10, 8), 4)
