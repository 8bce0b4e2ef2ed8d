"""Probes of a frozen encoder: how well plain methods read labels off its features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.optim import LARS, set_rate
from training.schedules import schedule_named

Features = tuple[Tensor, list[str]]
"(n, D) features and n labels"
Probe = Callable[[Features, Features | None], float]
NEIGHBOURS = 20
TEMPERATURE = 0.07
CHUNK = 512
LINEAR_RATE = 6.4
"peak of MAE's recipe, at its batch of 16,384; the trust ratio makes it fit smaller ones"
LINEAR_STEPS = 1000
"least steps, for few samples"


def knn_votes(
    taught: Tensor,
    labels: Tensor,
    asked: Tensor,
    *,
    classes: int,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    leave_self_out: bool = False,
) -> Tensor:
    """Return the votes (m, classes) of the nearest taught features for each asked one.

    Args:
        taught: (n, D), L2-normalised.
        labels: (n,) class numbers.
        asked: (m, D), L2-normalised.
        leave_self_out: `asked` is `taught`; a sample is no neighbour of its own.

    Source: DINO's weighted k-NN, weight exp(similarity / temperature).
    """
    count = min(neighbours, len(taught) - int(leave_self_out))
    votes = taught.new_zeros(len(asked), classes)
    for start in range(0, len(asked), CHUNK):
        similar = asked[start : start + CHUNK] @ taught.T
        if leave_self_out:
            own = torch.arange(len(similar))
            similar[own, own + start] = -torch.inf
        nearest, ids = similar.topk(count, dim=1)
        votes[start : start + CHUNK].scatter_add_(1, labels[ids], torch.exp(nearest / temperature))
    return votes


def knn_accuracy(taught: Features, asked: Features | None) -> float:
    """Return the share of right answers: k = 20, cosine of centred features; None asks each with
    itself left out.
    """
    (known, known_labels), (new, new_labels) = taught, asked or taught
    numbers, answers = number_labels(known_labels, new_labels)
    centre = known.mean(0, keepdim=True)
    votes = knn_votes(
        functional.normalize(known - centre, dim=1),
        numbers,
        functional.normalize(new - centre, dim=1),
        classes=int(numbers.max()) + 1,
        leave_self_out=asked is None,
    )
    return float((votes.argmax(1) == answers).float().mean())


def linear_accuracy(taught: Features, asked: Features | None, epochs: int = 90) -> float:
    """Return the share of right answers of MAE's linear probe: batch norm without gains, a linear
    layer, LARS.

    Without samples to ask, a fifth of the taught ones, drawn with a fixed seed, is asked instead.
    """
    (known, known_labels), (new, new_labels) = (
        split_features(taught) if asked is None else (taught, asked)
    )
    numbers, answers = number_labels(known_labels, new_labels)
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(known.shape[1], int(numbers.max()) + 1)
    nn.init.trunc_normal_(head.weight, std=0.01, generator=generator)
    nn.init.zeros_(head.bias)
    mean, std = known.mean(0), (known.var(0, correction=0) + 1e-6).sqrt()
    known, new = (known - mean) / std, (new - mean) / std
    batch = min(256, len(known))
    steps = max(LINEAR_STEPS, epochs * (len(known) // batch))
    optimizer = LARS(head.parameters(), lr=LINEAR_RATE)
    rate = schedule_named("cosine", peak=LINEAR_RATE, low=0.0, warmup=0.1, total=steps)
    for step in range(steps):
        rows = torch.randint(len(known), (batch,), generator=generator)
        set_rate(optimizer, rate(step))
        optimizer.zero_grad()
        functional.cross_entropy(head(known[rows]), numbers[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        return float((head(new).argmax(1) == answers).float().mean())


PROBES: dict[str, Probe] = {"knn": knn_accuracy, "linear": linear_accuracy}


def probe_named(name: str) -> Probe:
    """Return a probe: (taught, asked or None) to accuracy.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in PROBES:
        raise ValueError(
            f"probe {name!r} is unknown. Known: {', '.join(PROBES)}. Add it in training/probes.py."
        )
    return PROBES[name]


def number_labels(known: Sequence[str], new: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return class numbers of both label lists; a label that was never taught is -1, which no
    answer equals.
    """
    numbers = {label: number for number, label in enumerate(sorted(set(known)))}
    return (
        torch.tensor([numbers[label] for label in known]),
        torch.tensor([numbers.get(label, -1) for label in new]),
    )


def split_features(taught: Features, share: float = 0.2) -> tuple[Features, Features]:
    """Return the features cut in two by a fixed shuffle; the second part holds `share` of them."""
    order = torch.randperm(len(taught[1]), generator=torch.Generator().manual_seed(0))
    cut = max(1, int(share * len(order)))
    parts = [
        (taught[0][ids], [taught[1][i] for i in ids.tolist()]) for ids in (order[cut:], order[:cut])
    ]
    return parts[0], parts[1]
