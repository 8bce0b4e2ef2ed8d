"""How sure an accuracy is: resampled groups of samples, and splits that keep groups whole.

A group is what stems from one source: the clips of a video, the sites of a well. Its samples are
near copies, so they are taught or asked together, and count as one when chance is measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from preprocessing.randomness import generator

RESAMPLES = 1000
SHARE = 0.2
"of a label's groups that are asked, where the dataset says nothing"
_CHUNK = 50


def interval(
    right: Sequence[Tensor], groups: Sequence[Sequence[str]], resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % interval of the share of right answers when groups are drawn anew.

    Args:
        right: (m,) bool for each repetition of a probe.
        groups: of the asked samples of each repetition.
    """
    names = {
        name: number for number, name in enumerate(sorted({g for part in groups for g in part}))
    }
    numbers = np.array([names[g] for part in groups for g in part])
    values = np.concatenate([part.numpy() for part in right]).astype(np.float64)
    sums = np.bincount(numbers, values, len(names))
    counts = np.bincount(numbers, minlength=len(names)).astype(np.float64)
    draw = generator(0, 0, 1, "probe")
    shares = []
    for begin in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - begin)
        drawn = draw.integers(len(names), size=(rows, len(names)))
        shares.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(shares), [0.025, 0.975])
    return float(low), float(high)


def split_groups(
    labels: Sequence[str], groups: Sequence[str], seed: int, share: float = SHARE
) -> tuple[list[int], list[int]]:
    """Return the numbers of the taught and of the asked samples; no group is in both.

    Of each label a share of its groups is asked, one at least where it has two.

    Raises:
        ValueError: no label has two groups.
    """
    of_label: dict[str, list[str]] = defaultdict(list)
    for label, group in sorted(set(zip(labels, groups, strict=True))):
        of_label[label].append(group)
    asked: set[str] = set()
    for number, names in enumerate(of_label.values()):
        free = [name for name in names if name not in asked]
        wanted = max(1, round(share * len(names))) if len(names) > 1 else 0
        order = generator(seed, 0, 2 + number, "probe").permutation(len(free))
        asked |= {free[i] for i in order[: max(0, wanted - (len(names) - len(free)))]}
    if not asked:
        raise ValueError(
            f"probe: each of the {len(of_label)} labels has a single group of samples, so none can "
            "be asked that was not taught. Give other samples by --test."
        )
    taught = [i for i, group in enumerate(groups) if group not in asked]
    return taught, [i for i, group in enumerate(groups) if group in asked]
