"""Every column under every view that it claims: exact, within its printed bound, or refused (T8).

"Derive then transform" is what a stream does with a stored column; "transform then derive" computes
it on what the view shows.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.artefacts import stored_of
from pipelines.column_types import Stored, frozen_view, view_config
from pipelines.producers import PRODUCERS, column_spec, compute_one
from preprocessing.bits import pack_masks, unpack_mask
from preprocessing.fft import fft_bound, fft_targets, uint16_to_fft
from preprocessing.flow import coarse_flow, dense_flow, flow_to_int16, int16_to_flow
from preprocessing.hog import uint8_to_hog
from preprocessing.indices import int16_to_ndi, ndi, ndi_to_int16
from preprocessing.kmeans import nearest, patch_vectors
from preprocessing.mask_random import Grid
from preprocessing.masks import MASK_SEED, MASKS, MaskConfig, make_mask
from preprocessing.payloads import decode_payload
from preprocessing.randomness import generator
from preprocessing.rasters import encode_raster
from preprocessing.slic import slic_regions, view_labels
from preprocessing.targets import TargetConfig, target_from_pixels
from preprocessing.views import View, apply_view, draw_view, view_flow
from preprocessing.vit import encode_tokens, frozen_encoder
from preprocessing.weight_files import read_weights
from tests.property.test_geometry import translating
from tests.tiny_encoder import tiny_vit

FAST = settings(max_examples=25, deadline=None)
FEW = settings(max_examples=8, deadline=None)
seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(("resized_crop", "multi_scale", "random_crop", "center"))


def image(seed: int, height: int, width: int) -> Stored:
    """Return a stored random picture with edges at several scales."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 4 + 2, width // 4 + 2, 3), np.uint8)
    pixels = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    data = cv2.imencode(".png", pixels)[1].tobytes()
    return Stored(seed, "png", data, {}, pixels.shape)


def tile(seed: int, height: int, width: int, dtype: type = np.float32) -> Stored:
    """Return a stored tile of the bands B2, B3, B4, B8."""
    pixels = np.random.default_rng(seed).integers(0, 4000, (4, height, width)).astype(dtype)
    metadata = {"channels": ["B2", "B3", "B4", "B8"]}
    return Stored(seed, "tif", encode_raster(pixels), metadata, pixels.shape)


def view_settings(kind: str, size: int) -> dict[str, Any]:
    """Return the settings of a frozen view."""
    return {"kind": kind, "size": size, "flip": True}


sizes = st.integers(33, 90)


@FAST
@given(
    seed=seeds,
    height=sizes,
    width=sizes,
    kind=kinds,
    views=st.integers(1, 3),
    scales=st.booleans(),
)
def test_hog_belongs_to_its_frozen_views(
    seed: int, height: int, width: int, kind: str, views: int, scales: bool
) -> None:
    stored = image(seed, height, width)
    asked = {"views": views, "view": view_settings(kind, 32), "scales": scales}
    asked["window"] = 0 if scales else 16
    column = compute_one(column_spec("hog", asked), stored)
    target = TargetConfig(kind="hog_scales" if scales else "hog", window=asked["window"])
    for index in range(views):
        seen = see(stored, asked, index)
        online = target_from_pixels(seen, target, 16)
        assert np.abs(uint8_to_hog(column[index]) - online).max() <= 1 / 510 + 1e-6


def see(stored: Stored, asked: dict[str, Any], index: int) -> NDArray[np.generic]:
    """Return what a frozen view shows of a sample."""
    pixels = decode_payload(stored.ext, stored.payload)
    first = stored.ext == "tif"
    shape = pixels.shape[-2:] if first else pixels.shape[:2]
    view = frozen_view(asked, *shape, stored.sample, index)
    return apply_view(pixels, view, channels_first=first)


@FAST
@given(seed=seeds, height=sizes, width=sizes, kind=kinds)
def test_codes_belong_to_their_frozen_views(seed: int, height: int, width: int, kind: str) -> None:
    import io

    stored = image(seed, height, width)
    centroids = np.random.default_rng(seed).random((7, 16 * 16 * 3)).astype(np.float32)
    buffer = io.BytesIO()
    np.save(buffer, centroids)
    asked = {"views": 2, "view": view_settings(kind, 32), "codes": 7}
    column = compute_one(column_spec("codes", asked), stored, buffer.getvalue())
    for index in range(2):
        wanted = nearest(patch_vectors(see(stored, asked, index)[None], 16), centroids)
        np.testing.assert_array_equal(column[index], wanted)


@FEW
@given(seed=seeds, height=sizes, width=sizes, kind=kinds, views=st.integers(1, 3))
def test_features_belong_to_their_frozen_views(
    seed: int, height: int, width: int, kind: str, views: int
) -> None:
    stored, weights = image(seed, height, width), tiny_vit()
    asked = {"views": views, "view": view_settings(kind, 32), "norm": "half"}
    column = compute_one(column_spec("features", asked), stored, weights)
    encoder = frozen_encoder(read_weights(weights), heads=4)
    for index in range(views):
        seen = torch.from_numpy(see(stored, asked, index)).permute(2, 0, 1)[None]
        wanted = encode_tokens(encoder, seen.float() / 127.5 - 1)[0].numpy()
        assert column[index].shape == wanted.shape == (4, 24)
        # 1e-5: several views at once are summed in another order than one alone.
        assert (np.abs(column[index] - wanted) <= np.abs(wanted) / 2048 + 1e-5).all()
    if kind != "center":
        other = {**asked, "view": {**view_settings(kind, 32), "flip": False}}
        assert (
            column_spec("features", other).fingerprint != column_spec("features", asked).fingerprint
        )


@FAST
@given(seed=seeds, height=sizes, width=sizes, kind=kinds, size=st.sampled_from((16, 31, 32)))
def test_fourier_targets_belong_to_their_frozen_views(
    seed: int, height: int, width: int, kind: str, size: int
) -> None:
    stored = tile(seed, height, width, np.uint16)
    asked = {"views": 2, "view": view_settings(kind, size)}
    column = compute_one(column_spec("fft", asked), stored)
    for index in range(2):
        wanted = fft_targets(see(stored, asked, index))
        found = uint16_to_fft(column[index], size * size)
        assert (np.abs(found - wanted) <= fft_bound(size * size) * (1 + wanted)).all()


views_of = st.tuples(*(st.integers(0, 20) for _ in range(2)), *(st.integers(8, 40),) * 2)


@FAST
@given(seed=seeds, box=views_of, flip=st.booleans(), size=st.integers(4, 80))
def test_indices_follow_every_view(
    seed: int, box: tuple[int, int, int, int], flip: bool, size: int
) -> None:
    """Exact under crop and flip; resized, inside the range of what an output pixel shows."""
    pixels = decode_payload("tif", tile(seed, 60, 60).payload)
    bands, names = ["B2", "B3", "B4", "B8"], ("ndvi", "ndwi")
    whole = ndi(pixels, bands, names)
    stored = int16_to_ndi(ndi_to_int16(whole))
    top, left, height, width = box
    crop = View(top, left, height, height, height, flip)
    online = ndi(apply_view(pixels, crop, channels_first=True), bands, names)
    seen = apply_view(stored, crop, channels_first=True)
    assert np.abs(seen - online).max() <= 1 / 65534 + 1e-6
    view = View(top, left, height, width, size, flip)
    online = ndi(apply_view(pixels, view, channels_first=True), bands, names)
    seen = apply_view(stored, view, channels_first=True)
    low, high = shown_range(whole, view)
    slack = 1 / 65534 + 1e-4
    for found in (online, seen):
        assert (found >= low - slack).all()
        assert (found <= high + slack).all()


def shown_range(
    maps: NDArray[np.float32], view: View
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the least and greatest value of the stored pixels that each output pixel touches."""
    bounds = []
    for extent, begin in ((view.height, view.top), (view.width, view.left)):
        edges = np.arange(view.size + 1) * extent / view.size
        centre = (edges[:-1] + edges[1:]) / 2 - 0.5
        low = np.floor(np.minimum(edges[:-1], centre)).clip(0, extent - 1).astype(int)
        high = np.ceil(np.maximum(edges[1:], centre + 1)).clip(1, extent).astype(int)
        bounds.append([slice(begin + a, begin + b) for a, b in zip(low, high, strict=True)])
    rows, columns = bounds
    parts = [[maps[:, row, column] for column in columns] for row in rows]
    least = np.array([[p.min((1, 2)) for p in line] for line in parts]).transpose(2, 0, 1)
    most = np.array([[p.max((1, 2)) for p in line] for line in parts]).transpose(2, 0, 1)
    return (least[..., ::-1], most[..., ::-1]) if view.flip else (least, most)


@FAST
@given(seed=seeds, box=views_of, flip=st.booleans(), size=st.integers(4, 80))
def test_regions_follow_every_view(
    seed: int, box: tuple[int, int, int, int], flip: bool, size: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, 9, (60, 60)).astype(np.uint16)
    top, left, height, width = box
    cut = labels[top : top + height, left : left + height]
    crop = view_labels(labels, View(top, left, height, height, height, flip))
    np.testing.assert_array_equal(crop, cut[:, ::-1] if flip else cut)
    view = View(top, left, height, width, size, flip)
    seen = view_labels(labels, view)
    for i, j in np.ndindex(size, size):
        column = size - 1 - j if flip else j
        y, x = (int((n + 0.5) * edge / size) for n, edge in ((i, height), (column, width)))
        assert seen[i, j] == labels[top + y, left + x]


@FEW
@given(seed=seeds, edge=st.integers(16, 40))
def test_regions_are_those_of_slic(seed: int, edge: int) -> None:
    """No region crosses the border between two colours; the stored ids are SLIC's own."""
    colours = np.random.default_rng(seed).permutation(8)[:2].astype(np.uint8) * 36
    pixels = np.empty((56, 56, 3), np.uint8)
    pixels[:, :edge], pixels[:, edge:] = colours
    data = cv2.imencode(".png", pixels)[1].tobytes()
    column = compute_one(column_spec("regions", {"segments": 16}), Stored(0, "png", data, {}))
    np.testing.assert_array_equal(column, slic_regions(pixels, 16))
    assert not {*column[:, : edge - 2].ravel()} & {*column[:, edge + 2 :].ravel()}


@FAST
@given(seed=seeds, box=views_of, flip=st.booleans(), cells=st.integers(1, 20))
def test_flow_stays_inside_what_a_cell_shows(
    seed: int, box: tuple[int, int, int, int], flip: bool, cells: int
) -> None:
    """The bound of stored flow and motion under any view: within the range of the flow in the
    stored cells that an output cell touches, and their neighbours, scaled with the frames."""
    rng = np.random.default_rng(seed)
    dense = cv2.GaussianBlur(rng.normal(0, 20, (64, 64, 2)).astype(np.float32), (0, 0), 3)
    stored = coarse_flow(dense[None], 8)
    top, left, height, width = box
    view = View(top, left, height, width, 64, flip)
    seen = view_flow(int16_to_flow(flow_to_int16(stored)), 8, view, (cells, cells))[0]
    if flip:
        seen = seen[:, ::-1] * np.array([-1, 1], np.float32)
    scale = np.array([64 / width, 64 / height])
    for i, j in np.ndindex(cells, cells):
        rows, columns = (
            touched(begin, extent, n, cells)
            for begin, extent, n in ((top, height, i), (left, width, j))
        )
        shown = dense[rows, columns].reshape(-1, 2)
        slack = scale / 128 + 1e-3
        assert (seen[i, j] >= shown.min(0) * scale - slack).all()
        assert (seen[i, j] <= shown.max(0) * scale + slack).all()


def touched(begin: int, extent: int, number: int, cells: int) -> slice:
    """Return the pixels of the 8 px cells around an output cell."""
    first = (begin + number * extent / cells) // 8 - 1
    last = (begin + (number + 1) * extent / cells) // 8 + 2
    return slice(max(int(first), 0) * 8, int(last) * 8)


@FEW
@given(
    seed=seeds,
    dx=st.floats(-4, 4),
    dy=st.floats(-4, 4),
    box=st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(5, 8), st.integers(5, 8)),
    flip=st.booleans(),
    method=st.sampled_from(("dis_medium", "dis_fast", "farneback")),
)
def test_stored_flow_is_as_good_as_its_estimator(
    seed: int,
    dx: float,
    dy: float,
    box: tuple[int, int, int, int],
    flip: bool,
    method: str,
) -> None:
    """Mean end-point error of stored flow: at most 0.05 px above the estimator's, sign, order and
    scale right under crop, resize and flip."""
    frames = translating(seed, dx, dy, (128, 128))
    for direction, sign in (("backward", -1), ("forward", 1)):
        dense = dense_flow(frames, method=method, direction=direction)[:, 16:112, 16:112]
        stored = int16_to_flow(flow_to_int16(coarse_flow(dense, 8)))
        truth = sign * np.array([dx, dy])
        own = end_point_error(dense, truth)
        assert end_point_error(stored, truth) <= own + 0.05
        top, left, height, width = (8 * n for n in box)
        view = View(top, left, min(height, 96 - top), min(width, 96 - left), 112, flip)
        scale = np.array([112 / view.width, 112 / view.height])
        seen = view_flow(stored, 8, view, (14, 14))
        inside = dense[:, top : top + view.height, left : left + view.width]
        wanted = truth * scale * np.array([-1 if flip else 1, 1])
        own = end_point_error(inside * scale, truth * scale)
        assert end_point_error(seen, wanted) <= own + 0.05 * scale.max() + 1e-3


def end_point_error(field: NDArray[np.float32], truth: NDArray[np.float64]) -> float:
    """Return the mean distance of vectors from the true one."""
    return float(np.hypot(*np.moveaxis(field - truth, -1, 0)).mean())


DRAWN = [kind for kind in MASKS if kind not in ("mgmae", "mgm")]


@FAST
@given(
    seed=seeds,
    kind=st.sampled_from(DRAWN),
    grid=st.tuples(st.sampled_from((1, 2, 4)), st.integers(2, 7)),
    ratio=st.sampled_from((0.5, 0.6, 0.75)),
    draws=st.integers(1, 4),
)
def test_stored_masks_are_those_made_online(
    seed: int, kind: str, grid: tuple[int, int], ratio: float, draws: int
) -> None:
    times, half = grid
    whole: Grid = (times, 2 * half, 2 * half)
    shape = (2 * times, 33, 45, 3) if times > 1 else (33, 45, 3)
    stored = Stored(seed, "mp4" if times > 1 else "png", b"", {}, shape)
    asked = {"draws": draws, "size": 32 * half, "mask": {"kind": kind, "ratio": ratio}}
    column = compute_one(column_spec("masks", asked), stored)
    config = MaskConfig(kind=kind, ratio=ratio, draws=draws)
    for draw in range(draws):
        assert config.entropy(99, draw + 5 * draws) == (MASK_SEED, draw)
        rng = generator(MASK_SEED, draw, seed, "mask")
        wanted = make_mask(config, whole, rng)
        np.testing.assert_array_equal(unpack_mask(column[draw], wanted.size), wanted)


@FAST
@given(seed=seeds, tokens=st.integers(1, 400))
def test_bits_come_back(seed: int, tokens: int) -> None:
    masks = np.random.default_rng(seed).random((3, tokens)) < 0.5
    packed = pack_masks(masks)
    assert packed.shape == (3, -(-tokens // 8))
    np.testing.assert_array_equal(unpack_mask(packed, tokens), masks)
    with pytest.raises(ValueError, match="another grid"):
        unpack_mask(packed, 8 * packed.shape[1] + 1)


@FAST
@given(seed=seeds, height=sizes, width=sizes, kind=kinds)
def test_columns_and_streams_draw_the_same_frozen_views(
    seed: int, height: int, width: int, kind: str
) -> None:
    asked = {"view": view_settings(kind, 32)}
    config = view_config(asked)
    for index in range(3):
        drawn = draw_view(config, height, width, generator(0, index, seed, "view"))
        assert frozen_view(asked, height, width, seed, index) == drawn


@pytest.mark.parametrize("column", PRODUCERS)
def test_every_column_says_how_it_follows_each_view(column: str) -> None:
    producer = PRODUCERS[column]
    assert set(producer.views) == {"crop", "resize", "flip", "stride"}
    text = column_spec(column, {}).bound
    for operation, support in producer.views.items():
        assert support.split(":")[0].split()[0] in ("exact", "bounded", "refused", "as", "exact,")
        assert f"{operation} {support}" in text


def test_stored_of_keeps_what_producers_look_at() -> None:
    row = {"key": "a-0", "ext": "png", "metadata": "{}", "shape": [3, 4, 3]}
    stored = stored_of(row, b"x", flow=np.zeros(1))
    assert stored.shape == (3, 4, 3)
    assert set(stored.inputs) == {"flow"}
