"""Learning rates as pure functions of time. Time is in any one unit: steps, or fractional epochs."""

from __future__ import annotations

import math
from collections.abc import Callable

SCHEDULES = ("cosine", "infinite", "constant")


def cosine(time: float, *, peak: float, low: float, warmup: float, total: float) -> float:
    """Return MAE's rate: a line from 0 to `peak` over `warmup`, then half a cosine to `low` at `total`."""
    if time < warmup:
        return peak * time / warmup
    share = (time - warmup) / (total - warmup)
    return low + (peak - low) * 0.5 * (1.0 + math.cos(math.pi * share))


def schedule_named(
    name: str, *, peak: float, low: float, warmup: int, total: int
) -> Callable[[int], float]:
    """Return the rate of each optimiser step 0 .. total-1.

    Raises:
        ValueError: the name is unknown, or the warm-up does not fit.
    """
    if name not in SCHEDULES:
        raise ValueError(f"optim.schedule {name!r} is unknown. Known: {', '.join(SCHEDULES)}.")
    if not 0 <= warmup < total:
        raise ValueError(
            f"optim.warmup is {warmup} of {total} steps; it must be shorter than the run. 5 to 10 % is usual."
        )
    if name == "constant":
        return lambda step: peak * min(1.0, (step + 1) / (warmup + 1))
    if name == "infinite":
        return lambda step: infinite(step, peak=peak, low=low, total=total)
    return lambda step: cosine(step + 1, peak=peak, low=low, warmup=warmup + 1, total=total + 1)


def infinite(
    step: float,
    *,
    peak: float,
    low: float,
    total: int,
    constant: float | None = None,
    bounds: tuple[float, float, float] = (0.05, 0.15, 0.80),
    first_task: bool = True,
) -> float:
    """Return the rate of the infinite schedule: warm-up, cooldown, constant, then exponential annealing.

    Args:
        step: 0 or more.
        constant: the rate that is held; None is a tenth of the peak.
        bounds: shares of `total` where warm-up, cooldown and the constant phase end.
        first_task: later tasks (new data) begin in the constant phase.

    Source: "Beyond Cosine Decay", arXiv:2503.02844; the annealing exponent is ours.
    """
    held = 0.1 * peak if constant is None else constant
    warm, cool, hold = (int(share * total) for share in bounds)
    if first_task and step <= warm:
        return peak * step / max(warm, 1)
    if first_task and step <= cool:
        return held + (peak - held) * 0.5 * (1 + math.cos(math.pi * (step - warm) / (cool - warm)))
    if step <= hold:
        return held
    return held * (low / held) ** ((step - hold) / (total - hold))
