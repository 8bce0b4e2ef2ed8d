"""Masks by name: the published counts, what each needs, what is refused."""

from __future__ import annotations

import time

import numpy as np
import pytest

from preprocessing.masks import MaskConfig, decoded_tokens, make_mask, visible_count
from preprocessing.randomness import generator

CLIP = (8, 14, 14)


@pytest.mark.parametrize(
    ("kind", "grid", "ratio", "visible"),
    [
        ("random", (1, 14, 14), 0.75, 49),
        ("random", (1, 16, 16), 0.75, 64),
        ("tube", CLIP, 0.9, 160),
        ("tube", CLIP, 0.75, 392),
        ("tube", (8, 16, 16), 0.9, 208),
        ("agnostic", CLIP, 0.9, 156),
        ("mgmae", CLIP, 0.9, 152),
        ("random", (3, 12, 12), 0.75, 108 * 1),
        ("spatial", (3, 12, 12), 0.75, 108),
        ("random", (1, 14, 14), 0.7, 58),
        ("random", (6, 16, 16), 0.75, 384),
        ("random", (1, 14, 14), 0.985, 2),
        ("block", (1, 14, 14), 0.4, 196 - 78),
        ("cube", CLIP, 0.4, 4 * (392 - 157)),
        ("multimae", (3, 14, 14), 5 / 6 - 1e-9, 98),
    ],
)
def test_published_counts(
    kind: str, grid: tuple[int, int, int], ratio: float, visible: int
) -> None:
    assert visible_count(MaskConfig(kind=kind, ratio=ratio), grid) == visible


def test_crossmae_counts() -> None:
    config = MaskConfig(ratio=0.75, decoder="partial", decoder_ratio=0.25)
    mask = make_mask(config, (1, 14, 14), generator(0, 0, 0, "mask"))
    decoded = decoded_tokens(config, (1, 14, 14), mask, generator(0, 0, 0, "decoded"))
    assert ((~mask).sum(), (mask & ~decoded).sum(), decoded.sum()) == (49, 98, 49)


def test_motion_and_flow_give_the_same_box() -> None:
    motion = np.random.default_rng(0).normal(0, 4, (16, 28, 28, 2)).astype(np.float32)
    motion[0] = 0
    masks = [
        make_mask(
            MaskConfig(kind="mgm", source=source),
            CLIP,
            generator(0, 0, 0, "mask"),
            backward=motion[1:],
            motion=motion,
            cell=8,
        )
        for source in ("flow", "motion")
    ]
    np.testing.assert_array_equal(*masks)


def test_half_patch_cells_stand_for_pixels() -> None:
    """A motion of 3 px a frame: nearly the visible tokens that maps of full size give."""
    masks = []
    for cell in (1, 8):
        back = np.full((15, 112 // cell, 112 // cell, 2), (2.5, -1.5), np.float32)
        config = MaskConfig(kind="mgmae", ratio=0.75)
        rng = generator(1, 0, 0, "mask")
        known = {"backward": back, "forward": -back, "cell": float(cell)}
        masks.append(make_mask(config, (8, 7, 7), rng, **known))  # type: ignore[arg-type]
    assert (~masks[0] & ~masks[1]).sum() > 0.8 * (~masks[0]).sum()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "tubes"}, "mask.kind 'tubes' is unknown. Known: random, agnostic"),
        ({"ratio": 75}, "mask.ratio is 75; it must lie strictly between 0 and 1"),
        ({"base": "last"}, "mask.base is 'last'; it must be one of middle, first, random"),
        ({"decoder": "partial", "decoder_ratio": 0.9}, "mask.decoder_ratio is 0.9, mask.ratio 0.7"),
        ({"decoder_ratio": 1.0}, "mask.decoder_ratio is 1.0"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskConfig(**settings)  # type: ignore[arg-type]


def test_what_is_missing_is_named() -> None:
    rng = generator(0, 0, 0, "mask")
    field = np.zeros((15, 28, 28, 2), np.float32)
    config = MaskConfig(kind="mgmae")
    assert config.columns == ("flow",)
    assert MaskConfig(kind="mgm", source="motion").columns == ("motion",)
    assert MaskConfig(kind="tube").columns == ()
    with pytest.raises(ValueError, match=r"the flow of this sample is missing\. Derive it"):
        make_mask(config, CLIP, rng)
    with pytest.raises(ValueError, match="cell is missing"):
        make_mask(config, CLIP, rng, backward=field)
    with pytest.raises(ValueError, match="needs the forward flow"):
        make_mask(config, CLIP, rng, backward=field, cell=8)
    with pytest.raises(ValueError, match="flow has 28x27 cells, the token grid 14x14"):
        make_mask(config, CLIP, rng, backward=field[:, :, 1:], forward=field, cell=8)
    with pytest.raises(ValueError, match="15 frames do not divide into 8 tubelets"):
        make_mask(config, CLIP, rng, backward=field[1:], forward=field[1:], cell=8)
    with pytest.raises(ValueError, match="leaves 0 of 1x2x2 tokens visible"):
        make_mask(MaskConfig(ratio=0.9), (1, 2, 2), rng)


def test_motion_masks_are_fast() -> None:
    """2 ms a clip is the aim; the test allows for a busy machine."""
    motion = np.random.default_rng(0).normal(0, 4, (16, 28, 28, 2)).astype(np.float32)
    for kind in ("mgmae", "mgm"):
        config = MaskConfig(kind=kind, ratio=0.9)
        known = {"backward": motion[1:], "forward": motion[1:], "cell": 8.0}
        start = time.process_time()
        for sample in range(20):
            make_mask(config, CLIP, generator(0, 0, sample, "mask"), **known)  # type: ignore[arg-type]
        assert (time.process_time() - start) / 20 < 0.01
