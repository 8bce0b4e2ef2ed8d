"""Every family answers the same two calls, learns what it should, and starts the same each time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from training.models.config import ModelConfig, ModelInput
from training.models.families import MODELS, build_model
from training.models.layout import PixelLayout
from training.objectives import label_loss
from training.pixel_targets import patchify, pixel_targets, unpatchify

GROUPS = ((0, 1), (2,))
SIZES = {"width": 24, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_depth": 1}
VIDEO = ("videomae", "mae_st")
APART = ("localmim", "videomae_labels", "satmae_time")
"Families that take or predict something of their own, with tests of their own."
PIXELS = [family for family in MODELS if family not in APART]


def make(family: str) -> tuple[nn.Module, Tensor, int]:
    """Return a tiny model, pixels (B, 3, [4,] 16, 16) for it, and its number of tokens."""
    video = family in VIDEO
    config = ModelConfig(
        family=family,
        patch=4,
        tubelet=2 if video else 1,
        decoder_heads=2,
        groups=(("a", "b"), ("c",)) if family == "satmae_group" else (),
        **SIZES,
    )
    groups = GROUPS if family == "satmae_group" else ()
    frames = 4 if video else 1
    data = ModelInput(channels=3, size=16, frames=frames, groups=groups, widths={"pixels": 0})
    torch.manual_seed(0)
    model = build_model(config, data)
    shape = (2, 3, 4, 16, 16) if video else (2, 3, 16, 16)
    tokens = {"satmae_group": 32, "camae": 48, "videomae": 32, "mae_st": 32}.get(family, 16)
    return model, torch.rand(shape), tokens


@pytest.mark.parametrize("family", PIXELS)
def test_predicts_the_asked_tokens_and_learns_all_it_has(family: str) -> None:
    model, pixels, tokens = make(family)
    ids = torch.rand(2, tokens).argsort(1)
    visible, decoded = ids[:, :8].sort(1).values, ids[:, 8:14].sort(1).values
    predicted = model(pixels, visible, decoded)["pixels"]
    target = pixel_targets(pixels, model.layout, "none")
    assert predicted.shape == (2, 6, target.shape[-1])
    assert target.shape[1] == tokens
    (predicted - 1.0).square().mean().backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert [name for name in idle if "fc_norm" not in name] == []
    assert model.features(pixels).shape == (2, tokens, 24)


@pytest.mark.parametrize("family", PIXELS)
def test_hidden_pixels_do_not_reach_the_predictions(family: str) -> None:
    model, pixels, tokens = make(family)
    ids = torch.rand(2, tokens).argsort(1)
    visible, decoded = ids[:, :8].sort(1).values, ids[:, 8:].sort(1).values
    layout: PixelLayout = model.layout
    whole = PixelLayout(patch=4, tubelet=layout.tubelet, groups=layout.groups)
    values = patchify(pixels, whole)
    hidden = torch.ones(2, tokens).scatter_(1, visible, 0.0)[..., None]
    changed = unpatchify(values + hidden * torch.rand_like(values), whole, pixels.shape)
    assert not torch.equal(changed, pixels)
    with torch.no_grad():
        first, second = (model(p, visible, decoded)["pixels"] for p in (pixels, changed))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("family", PIXELS)
def test_starts_the_same_for_the_same_seed(family: str) -> None:
    first, second = make(family)[0].state_dict(), make(family)[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_unknown_family_lists_the_known_ones() -> None:
    config = ModelConfig(family="bert", patch=4, width=8, depth=1, heads=1)
    with pytest.raises(ValueError, match=r"'bert' is unknown\. Known: mae, "):
        build_model(config, ModelInput(channels=3, size=16, widths={"pixels": 0}))


def test_band_groups_must_be_told() -> None:
    config = ModelConfig(family="satmae_group", patch=4, decoder_heads=2, **SIZES)
    with pytest.raises(ValueError, match=r"model\.groups is empty"):
        build_model(config, ModelInput(channels=3, size=16, widths={"pixels": 0}))


@pytest.mark.parametrize(
    "layout",
    [
        PixelLayout(patch=4),
        PixelLayout(patch=4, channels_last=False),
        PixelLayout(patch=4, groups=((2, 0), (1,))),
        PixelLayout(patch=4, groups=((0,), (1,), (2,)), channels_last=False),
    ],
)
def test_unpatchify_undoes_patchify(layout: PixelLayout) -> None:
    pixels = torch.rand(2, 3, 8, 12)
    assert torch.equal(unpatchify(patchify(pixels, layout), layout, pixels.shape), pixels)


def test_unpatchify_undoes_patchify_of_clips() -> None:
    clips = torch.rand(2, 3, 4, 8, 12)
    layout = PixelLayout(patch=4, tubelet=2)
    assert torch.equal(unpatchify(patchify(clips, layout), layout, clips.shape), clips)


@pytest.mark.parametrize("joint", [False, True])
def test_normalised_groups_have_mean_0_and_variance_1(joint: bool) -> None:
    layout = PixelLayout(patch=4, groups=GROUPS, channels_last=False, joint_norm=joint)
    values = pixel_targets(3 + 5 * torch.rand(2, 3, 8, 8), layout, "mae").unflatten(1, (2, -1))
    if joint:
        together = torch.cat([values[:, 0], values[:, 1, :, :16]], dim=-1)
        parts = [together]
    else:
        parts = [values[:, 0], values[:, 1, :, :16]]
    for part in parts:
        assert part.mean(-1).abs().max() < 1e-5
        assert (part.var(-1) - 1).abs().max() < 1e-3
    assert values[:, 1, :, 16:].abs().max() == 0


def localmim(**sizes: int) -> nn.Module:
    """Return a tiny LocalMIM for (B, 3, 16, 16), 4 x 4 tokens."""
    config = ModelConfig(
        family="localmim", patch=4, decoder_heads=2, **{**SIZES, "depth": 4, **sizes}
    )
    torch.manual_seed(0)
    return build_model(config, ModelInput(channels=3, size=16, widths={"hog_scales": 27 * 22}))


def test_localmim_predicts_four_scales_and_sees_no_hidden_pixel() -> None:
    model, pixels = localmim(), torch.rand(2, 3, 16, 16)
    ids = torch.rand(2, 16).argsort(1)
    visible, decoded = ids[:, :6], ids[:, 6:]
    predicted = model(pixels, visible, decoded)["hog_scales"]
    assert predicted.shape == (2, 10, 27 * 22)
    predicted.square().mean().backward()
    learned = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in learned.items() if gradient is None] == []
    hidden = torch.ones(2, 16).scatter_(1, visible, 0.0)[..., None]
    values = patchify(pixels, model.layout)
    changed = unpatchify(values + hidden * torch.rand_like(values), model.layout, pixels.shape)
    with torch.no_grad():
        torch.testing.assert_close(model(changed, visible, decoded)["hog_scales"], predicted)
    # The four tokens of a 2x2 block share its coarse histogram.
    coarse = model(pixels, visible, torch.arange(16).expand(2, -1))["hog_scales"][..., -27:]
    assert torch.equal(coarse[:, [0, 0, 0]], coarse[:, [1, 4, 5]])
    assert not torch.equal(coarse[:, 0], coarse[:, 2])


def test_localmim_refuses_other_targets_and_shallow_encoders() -> None:
    with pytest.raises(ValueError, match="predicts the target hog_scales alone"):
        make("localmim")
    with pytest.raises(ValueError, match="a depth of 4 or more"):
        localmim(depth=3)


def test_a_picture_is_a_clip_that_stands_still() -> None:
    model = make("videomae")[0]
    picture = torch.rand(2, 3, 16, 16)
    still = picture.unsqueeze(2).expand(-1, -1, 2, -1, -1)
    assert torch.equal(model.features(picture), model.features(still))
    ids = torch.rand(2, 16).argsort(1)
    visible, decoded = ids[:, :6], ids[:, 6:]
    one, other = (model(x, visible, decoded)["pixels"] for x in (picture, still))
    assert torch.equal(one, other)
    values = patchify(picture, model.layout)
    assert torch.equal(values, patchify(still, model.layout))
    assert torch.equal(unpatchify(values, model.layout, picture.shape), picture)


def test_labels_are_learned_from_the_mean_token_of_what_is_seen_whole() -> None:
    config = ModelConfig(family="videomae_labels", patch=4, tubelet=2, width=24, depth=2, heads=2)
    torch.manual_seed(0)
    model = build_model(config, ModelInput(channels=3, size=16, frames=4, widths={"label": 5}))
    clip, none = torch.rand(3, 3, 4, 16, 16), torch.zeros(3, 0, dtype=torch.long)
    found = model(clip, none, none)["label"]
    assert found.shape == (3, 5)
    wanted = torch.eye(5)[:3]
    wanted[2] = 0  # a sample without a label weighs nothing
    loss = label_loss(found, wanted)
    reference = torch.nn.functional.cross_entropy(found[:2], torch.tensor([0, 1]))
    torch.testing.assert_close(loss, reference)
    loss.backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None]
    assert idle == []
    assert label_loss(found, torch.zeros(3, 5)).item() == 0.0
    encoder = build_model(
        ModelConfig(
            family="videomae", decoder_heads=2, **{**SIZES, "heads": 2}, patch=4, tubelet=2
        ),
        ModelInput(channels=3, size=16, frames=4, widths={"pixels": 0}),
    ).encoder
    model.encoder.load_state_dict(encoder.state_dict())  # a pretrained encoder fits name by name
