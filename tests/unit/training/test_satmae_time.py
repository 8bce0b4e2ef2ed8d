"""SatMAE over time: what a token is told of place and date, and what it predicts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from training.models.config import ModelConfig, ModelInput
from training.models.families import build_model
from training.models.satmae_time import SatMAETime
from training.pixel_targets import patchify

SIZES: dict[str, Any] = {
    "family": "satmae_time", "patch": 4, "width": 32, "depth": 2, "heads": 2, "decoder_width": 32,
    "decoder_depth": 1, "decoder_heads": 2,
}  # fmt: skip


def model(**changes: Any) -> SatMAETime:
    """Return a small network for pictures of two channels and 8 px."""
    torch.manual_seed(0)
    config = ModelConfig(**{**SIZES, **changes})
    built = build_model(config, ModelInput(channels=2, size=8, frames=3, widths={"pixels": 0}))
    assert isinstance(built, SatMAETime)
    return built.eval()


PIXELS = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
DATES = torch.tensor([[[3, 0, 5], [9, 6, 10], [19, 11, 23]], [[4, 1, 0], [4, 1, 0], [4, 2, 0]]])


def test_tokens_are_picture_major_and_so_are_their_targets() -> None:
    network = model()
    tokens = network.patch_embed(PIXELS[:, :, 1])
    whole = patchify(PIXELS, network.layout)
    assert torch.equal(whole[:, 4:8], patchify(PIXELS[:, :, 1], network.layout))
    with torch.no_grad():
        network.pos_embed.zero_()
        network.blocks = torch.nn.ModuleList()
        network.norm = torch.nn.Identity()
        seen = network.features(PIXELS, DATES)[:, 4:8]
    dated = network.dated
    assert torch.allclose(seen[..., :-dated], tokens[..., :-dated], atol=1e-6)
    assert not torch.allclose(seen[..., -dated:], tokens[..., -dated:])


def test_pictures_may_come_in_any_order_if_their_dates_come_along() -> None:
    network, turned = model(), torch.tensor([2, 0, 1])
    here = network.features(PIXELS, DATES).unflatten(1, (3, 4))
    there = network.features(PIXELS[:, :, turned], DATES[:, turned]).unflatten(1, (3, 4))
    assert torch.allclose(there, here[:, turned], atol=1e-5)
    other = network.features(PIXELS[:, :, turned], DATES).unflatten(1, (3, 4))
    assert not torch.allclose(other, here[:, turned], atol=1e-3)


def test_predictions_are_those_of_the_tokens_asked_for() -> None:
    network = model()
    visible, asked = torch.tensor([[0, 5, 10]]).expand(2, -1), torch.arange(12).expand(2, -1)
    whole = network(PIXELS, visible, asked, DATES)["pixels"]
    assert whole.shape == (2, 12, 2 * 4 * 4)
    few = network(PIXELS, visible, asked[:, [7, 2]], DATES)["pixels"]
    assert torch.allclose(few, whole[:, [7, 2]], atol=1e-6)


def test_a_date_of_a_hidden_picture_reaches_its_prediction() -> None:
    network, later = model(), DATES.clone()
    later[:, 2, 1] = (later[:, 2, 1] + 5) % 12
    visible = torch.tensor([[0, 5]]).expand(2, -1)
    asked = torch.tensor([[9]]).expand(2, -1)
    before, after = (network(PIXELS, visible, asked, d)["pixels"] for d in (DATES, later))
    assert not torch.allclose(before, after, atol=1e-5)


def test_widths_that_cannot_be_shared_out_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.width is 32, 10 of it for dates"):
        model(context=10)
