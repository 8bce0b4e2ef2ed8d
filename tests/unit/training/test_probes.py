"""Probes: what they read off features, and what they refuse."""

from __future__ import annotations

import pytest
import torch

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
