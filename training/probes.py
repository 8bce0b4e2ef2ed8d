"""Probes of a frozen encoder: how well plain methods read labels off its features.

A probe is taught by some samples and answers others. It returns which answers are right, so that
`training.confidence` can say how sure their share is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from preprocessing.randomness import generator
from training.attentive import AttentiveHead
from training.optim import LARS, set_rate
from training.schedules import schedule_named

Features = tuple[Tensor, list[str]]
"(n, D) features, or (n, N, D) tokens for the attentive probe, and n labels"
Probe = Callable[[Features, Features, int], Tensor]
"(taught, asked, seed) to (m,) bool: which answers are right"
NEIGHBOURS = 20
TEMPERATURE = 0.07
CHUNK = 512
BATCH = 256
LINEAR_RATE = 6.4
"peak of MAE's recipe, at its batch of 16,384; the trust ratio makes it fit smaller ones"
LINEAR_EPOCHS = 90
LINEAR_STEPS = 1000
"least steps, for few samples"
ATTENTIVE_RATE = 1e-3
ATTENTIVE_EPOCHS = 20
ATTENTIVE_STEPS = 300


def knn_votes(
    taught: Tensor,
    labels: Tensor,
    asked: Tensor,
    *,
    classes: int,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    groups: Tensor | None = None,
) -> Tensor:
    """Return the votes (m, classes) of the nearest taught features for each asked one.

    Args:
        taught: (n, D), L2-normalised.
        labels: (n,) class numbers.
        asked: (m, D), L2-normalised.
        groups: (n,) where `asked` is `taught`: a sample has no neighbour of its own group.

    Source: DINO's weighted k-NN, weight exp(similarity / temperature).
    """
    count = min(neighbours, len(taught))
    votes = taught.new_zeros(len(asked), classes)
    for start in range(0, len(asked), CHUNK):
        similar = asked[start : start + CHUNK] @ taught.T
        if groups is not None:
            own = groups[start : start + CHUNK, None] == groups
            similar[own] = -torch.inf  # its vote is then exp(-inf), which is 0
        nearest, ids = similar.topk(count, dim=1)
        votes[start : start + CHUNK].scatter_add_(1, labels[ids], torch.exp(nearest / temperature))
    return votes


def knn_right(taught: Features, asked: Features | None, groups: Sequence[str] = ()) -> Tensor:
    """Return which answers are right: k = 20, cosine of centred features.

    Args:
        asked: None asks each taught sample, with its own group left out.
        groups: of the taught samples; without them each is a group of its own.
    """
    (known, known_labels), (new, new_labels) = taught, asked or taught
    numbers, answers = number_labels(known_labels, new_labels)
    centre = known.mean(0, keepdim=True)
    alike = number_labels(groups, groups)[0] if groups else torch.arange(len(known))
    votes = knn_votes(
        functional.normalize(known - centre, dim=1),
        numbers,
        functional.normalize(new - centre, dim=1),
        classes=int(numbers.max()) + 1,
        groups=alike if asked is None else None,
    )
    best, chosen = votes.max(1)
    return (chosen == answers) & (best > 0)


def knn_accuracy(
    taught: Features, asked: Features | None = None, groups: Sequence[str] = ()
) -> float:
    """Return the share of right answers of `knn_right`."""
    return float(knn_right(taught, asked, groups).float().mean())


def linear_right(taught: Features, asked: Features, seed: int = 0) -> Tensor:
    """Return which answers of MAE's linear probe are right: batch norm without gains, a linear
    layer, LARS, cosine rate; features cached.

    Source: He et al. 2022, arXiv:2111.06377, appendix A.1; the mean of the patch tokens is read.
    """
    (known, known_labels), (new, new_labels) = taught, asked
    numbers, answers = number_labels(known_labels, new_labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = nn.Linear(known.shape[1], int(numbers.max()) + 1)
        nn.init.trunc_normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    head = nn.Sequential(nn.BatchNorm1d(known.shape[1], affine=False, eps=1e-6), linear)
    _teach(
        head,
        LARS(linear.parameters(), lr=LINEAR_RATE),
        (known, numbers),
        rate=LINEAR_RATE,
        steps=(LINEAR_EPOCHS, LINEAR_STEPS),
        seed=seed,
    )
    return _answers(head, new) == answers


def attentive_right(taught: Features, asked: Features, seed: int = 0) -> Tensor:
    """Return which answers of the attentive probe are right: one learned query over the tokens,
    then a linear layer.
    """
    (known, known_labels), (new, new_labels) = taught, asked
    numbers, answers = number_labels(known_labels, new_labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = AttentiveHead(known.shape[2], int(numbers.max()) + 1)
    head.measure(known)
    _teach(
        head,
        torch.optim.AdamW(head.parameters(), lr=ATTENTIVE_RATE, weight_decay=0.05),
        (known, numbers),
        rate=ATTENTIVE_RATE,
        steps=(ATTENTIVE_EPOCHS, ATTENTIVE_STEPS),
        seed=seed,
    )
    return _answers(head, new) == answers


def _teach(
    head: nn.Module,
    optimizer: torch.optim.Optimizer,
    taught: tuple[Tensor, Tensor],
    *,
    rate: float,
    steps: tuple[int, int],
    seed: int,
) -> None:
    """Train a head for so many epochs, but so many steps at least."""
    known, numbers = taught
    total = max(steps[1], steps[0] * (len(known) // BATCH))
    rates = schedule_named("cosine", peak=rate, low=0.0, warmup=0.1, total=total)
    head.train()
    for step, rows in zip(range(total), _rows(len(known), seed), strict=False):
        set_rate(optimizer, rates(step))
        optimizer.zero_grad()
        functional.cross_entropy(head(known[rows].float()), numbers[rows]).backward()
        optimizer.step()


def _rows(samples: int, seed: int) -> Iterator[Tensor]:
    """Yield batches without end: each epoch has an order of its own, and drops what is left."""
    size, epoch = min(BATCH, samples), 0
    while True:
        order = torch.from_numpy(generator(seed, epoch, 0, "probe").permutation(samples))
        yield from order[: samples // size * size].split(size)
        epoch += 1


@torch.no_grad()
def _answers(head: nn.Module, asked: Tensor) -> Tensor:
    head.eval()
    return torch.cat([head(part.float()).argmax(1) for part in asked.split(BATCH)])


PROBES: dict[str, Probe] = {
    "knn": lambda taught, asked, seed: knn_right(taught, asked),
    "linear": linear_right,
    "attentive": attentive_right,
}
SEEDED = ("linear", "attentive")
"Probes that draw: their first weights and the order of their samples."
OF_TOKENS = ("attentive",)


def probe_named(name: str) -> Probe:
    """Return a probe: (taught, asked, seed) to which answers are right.

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
