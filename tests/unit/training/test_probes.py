"""Probes and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
import torch

from preprocessing.hog import hog_cells
from training.confidence import interval, split_groups
from training.loop import Batch, Trainer
from training.pictures import draw_sheet, stroke_masks
from training.probes import knn_accuracy, probe_named

Features = tuple[torch.Tensor, list[str]]


def blobs(samples: int, spread: float, seed: int) -> Features:
    """Return features around two far centres, a large common offset added."""
    draw = torch.Generator().manual_seed(seed)
    numbers = torch.arange(samples) % 2
    centres = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    noise = spread * torch.randn(samples, 4, generator=draw)
    return 50 + centres[numbers] + noise, [("dog", "cat")[n] for n in numbers.tolist()]


def needles(samples: int, seed: int) -> Features:
    """Return (n, 16, 8) tokens whose class stands in one token alone, of random place and sign.

    The sign makes their mean useless for a linear layer.
    """
    draw = torch.Generator().manual_seed(seed)
    numbers = torch.arange(samples) % 2
    tokens = 0.3 * torch.randn(samples, 16, 8, generator=draw)
    places = torch.randint(16, (samples,), generator=draw)
    rows = torch.arange(samples)
    tokens[rows, places, 0] += 8.0
    tokens[rows, places, 1] += 4.0 * (2 * numbers - 1)
    others = (places + 1 + torch.randint(15, (samples,), generator=draw)) % 16
    tokens[rows, others, 1] -= 4.0 * (2 * numbers - 1)
    return tokens.half(), [("dog", "cat")[n] for n in numbers.tolist()]


def share(right: torch.Tensor) -> float:
    return float(right.float().mean())


@pytest.mark.parametrize("name", ["knn", "linear"])
def test_probes_read_what_is_there_and_no_more(name: str) -> None:
    probe = probe_named(name)
    assert share(probe(blobs(200, 0.05, 0), blobs(60, 0.05, 1), 0)) == 1.0
    features, labels = blobs(200, 0.05, 0)
    shuffled = [labels[i] for i in torch.randperm(200, generator=torch.Generator().manual_seed(3))]
    assert share(probe((features, shuffled), blobs(60, 0.05, 1), 0)) < 0.8


def test_the_attentive_probe_reads_what_a_mean_has_lost() -> None:
    taught, asked = needles(256, 0), needles(128, 1)
    means = [(tokens.float().mean(1), labels) for tokens, labels in (taught, asked)]
    assert share(probe_named("linear")(*means, 0)) < 0.7
    assert share(probe_named("attentive")(taught, asked, 0)) > 0.95
    shuffled = sorted(taught[1])
    assert share(probe_named("attentive")((taught[0], shuffled), asked, 0)) < 0.7


@pytest.mark.parametrize("name", ["linear", "attentive"])
def test_a_probe_is_a_function_of_its_seed(name: str) -> None:
    taught, asked = needles(64, 0), needles(64, 1)
    if name == "linear":
        taught, asked = ((tokens.float().mean(1), labels) for tokens, labels in (taught, asked))
    probe = probe_named(name)
    before = torch.get_rng_state()
    first, again, other = (probe(taught, asked, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert name == "linear" or not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_leaving_one_out_never_finds_the_sample_itself() -> None:
    features = torch.eye(6)
    assert knn_accuracy((features, ["a", "b", "c", "d", "e", "f"]), None) == 0.0
    assert knn_accuracy(blobs(60, 0.05, 0), None) == 1.0


def test_a_near_copy_of_the_same_group_is_no_neighbour() -> None:
    """Ten clips of each of eight videos: a video's label can be guessed from itself alone."""
    draw = torch.Generator().manual_seed(0)
    videos = torch.randn(8, 16, generator=draw).repeat_interleave(10, 0)
    clips = videos + 0.01 * torch.randn(80, 16, generator=draw)
    labels = [("dog", "cat")[(i // 10) % 2] for i in range(80)]
    groups = [f"video {i // 10}" for i in range(80)]
    assert knn_accuracy((clips, labels)) == 1.0
    assert knn_accuracy((clips, labels), None, groups) < 0.8
    alone = (clips[:10], labels[:10])
    assert knn_accuracy(alone, None, groups[:10]) == 0.0


def test_a_label_that_was_never_taught_is_never_right() -> None:
    taught, (asked, _) = blobs(40, 0.05, 0), blobs(10, 0.05, 1)
    assert knn_accuracy(taught, (asked, ["fish"] * 10)) == 0.0


def test_an_unknown_probe_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'guess' is unknown\. Known: knn, linear, attentive"):
        probe_named("guess")


def test_groups_are_never_split() -> None:
    labels = [("dog", "cat")[i % 2] for i in range(10) for _ in range(6)]
    groups = [f"video {i}" for i in range(10) for _ in range(6)]
    splits = [split_groups(labels, groups, seed) for seed in range(3)]
    for taught, asked in splits:
        assert sorted(taught + asked) == list(range(60))
        assert not {groups[i] for i in taught} & {groups[i] for i in asked}
        assert {labels[i] for i in asked} == {"dog", "cat"}
        assert len(asked) == 12
    assert len({tuple(asked) for _, asked in splits}) > 1
    with pytest.raises(ValueError, match="single group of samples"):
        split_groups(["dog", "dog", "cat"], ["a", "a", "b"], 0)


def test_copies_make_nothing_surer() -> None:
    """20 answers, and the same with 30 copies of each: the interval stays, if groups are known."""
    right = torch.arange(20) % 4 != 0
    groups = [str(i) for i in range(20)]
    low, high = interval([right], [groups])
    assert 0.5 < low < 0.75 < high < 1.0
    copies, whose = right.repeat(30), groups * 30
    copied = interval([copies], [whose])
    assert copied == pytest.approx((low, high), abs=0.02)
    careless = interval([copies], [[str(i) for i in range(600)]])
    assert careless[1] - careless[0] < 0.4 * (high - low)


def test_the_sheet_shows_three_rows_of_samples(
    trainer: Callable[[], Trainer], batches: Callable[[int, int], Iterator[Batch]]
) -> None:
    batch = next(batches(0, 1))
    sheet = cv2.imdecode(np.frombuffer(draw_sheet(trainer(), batch), np.uint8), cv2.IMREAD_COLOR)
    height, width = sheet.shape[:2]
    tile = width // 8
    assert height // tile == 3
    tiles = [sheet[row * tile : row * tile + tile - 4, : tile - 4].astype(int) for row in range(3)]
    gray = np.abs(tiles[1] - tiles[1][..., :1]).max(-1) == 0
    assert 0.7 < gray.mean() < 0.8  # 12 of 16 patches are hidden
    shown = ~gray
    assert np.abs(tiles[0] - tiles[1])[shown].max() <= 1
    assert np.abs(tiles[0] - tiles[2])[shown].max() <= 1


@pytest.mark.parametrize("turned", [False, True])
def test_strokes_run_along_the_edge_that_hog_saw(turned: bool) -> None:
    image = np.repeat(np.arange(0, 160, 10, dtype=np.float64)[:, None], 16, axis=1)[..., None]
    image = image.transpose(1, 0, 2) if turned else image  # rising downwards, or to the right
    histogram = hog_cells(image[None], cell=8)[0, 0, 0, 0]
    stroke = stroke_masks(9, 8)[int(histogram.argmax())].numpy()
    rows, columns = (np.ptp(axis) for axis in np.nonzero(stroke))
    assert (rows > columns) == turned
