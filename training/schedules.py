"""Learning rates as pure functions of time. Time is in any unit: steps, epochs."""

from __future__ import annotations

import math
from collections.abc import Callable

COOLDOWNS: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share: 1 - share,
    "inverse_sqrt": lambda share: 1 - _inverse_sqrt(share) / _inverse_sqrt(1.0),
}
"Share of the way still to go, after a share of the cooldown phase."
SCHEDULES = ("cosine", "infinite", "constant", "one_cycle")


def cosine(time: float, *, peak: float, low: float, warmup: float, total: float) -> float:
    """Return MAE's rate: a line from 0 to `peak` over `warmup`, then half a cosine to `low` at
    `total`.
    """
    if time < warmup:
        return peak * time / warmup
    share = (time - warmup) / (total - warmup)
    return low + (peak - low) * 0.5 * (1.0 + math.cos(math.pi * share))


def schedule_named(
    name: str, *, peak: float, low: float, warmup: float, total: int
) -> Callable[[int], float]:
    """Return the rate of each optimiser step 0 .. total-1; the first is above 0, the last above
    `low`.

    Args:
        name: one of `SCHEDULES` but infinite, which has more settings.
        warmup: share of the steps in which the rate rises.
        total: steps of the run.

    Raises:
        ValueError: the name is unknown.
    """
    rise = int(warmup * total)
    if name == "constant":
        return lambda step: peak * min(1.0, (step + 1) / (rise + 1))
    if name == "cosine":
        return lambda step: cosine(step + 1, peak=peak, low=low, warmup=rise + 1, total=total + 1)
    if name == "one_cycle":
        return lambda step: one_cycle(step, peak=peak, rise=warmup * total, total=total)
    raise ValueError(f"optim.schedule {name!r} is unknown. Known: {', '.join(SCHEDULES)}.")


def one_cycle(step: float, *, peak: float, rise: float, total: float) -> float:
    """Return microscopy's rate: half a cosine up from `peak` / 25 over `rise` steps, then one down
    to a 10,000th of where it began, met at the last of the `total` steps.
    """
    start, top = peak / 25, max(rise - 1, 0.0)
    first, last, share = start, peak, step / top if top else 1.0
    if step > top:
        first, last, share = peak, start / 1e4, (step - top) / (total - 1 - top)
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * share))


def infinite(
    step: float,
    *,
    peak: float,
    low: float,
    total: int,
    constant: float | None = None,
    bounds: tuple[float, float, float] = (0.05, 0.15, 0.80),
    first_task: bool = True,
    cooldown: str = "cosine",
) -> float:
    """Return the rate of the infinite schedule: warm-up, cooldown, constant, then exponential
    annealing.

    Args:
        step: 0 or more.
        constant: the rate that is held; None is a tenth of the peak.
        bounds: where warm-up, cooldown and the constant phase end: shares of `total`, or steps
            where above 1, so that a run can go on where a shorter one was.
        cooldown: way from the peak to the held rate: cosine, linear or inverse_sqrt.
        first_task: later tasks (new data) begin in the constant phase.

    Source: "Beyond Cosine Decay", arXiv:2503.02844; the annealing exponent is ours.
    """
    held = 0.1 * peak if constant is None else constant
    warm, cool, hold = phase_ends(bounds, total)
    if first_task and step <= warm:
        return peak * step / max(warm, 1)
    if first_task and step <= cool:
        return held + (peak - held) * COOLDOWNS[cooldown]((step - warm) / (cool - warm))
    if step <= hold:
        return held
    return held * (low / held) ** ((step - hold) / (total - hold))


def phase_ends(bounds: tuple[float, float, float], total: int) -> tuple[int, int, int]:
    """Return the steps where the phases of the infinite schedule end; see `infinite`."""
    warm, cool, hold = (int(bound if bound > 1 else bound * total) for bound in bounds)
    return warm, cool, hold


def videomae_table(peak: float, low: float, total: int, warmup: int) -> list[float]:
    """Return VideoMAE's rate of each step: the peak is reached at the last warm-up step, `low`
    never.

    Args:
        peak: rate after the warm-up, which starts at exactly 0.
        low: rate that the cosine tends to.
        total: steps of the run, `warmup` of them on a line.
    """
    line = [peak * step / (warmup - 1) if warmup > 1 else 0.0 for step in range(warmup)]
    rest = total - warmup
    wave = (0.5 * (1 + math.cos(math.pi * step / rest)) for step in range(rest))
    return line + [low + (peak - low) * height for height in wave]


def slowfast(
    time: float, *, peak: float, low: float, start: float, warmup: float, total: float
) -> float:
    """Return SlowFast's rate: a line from `start` to `peak`, then half a cosine to `low`."""
    if time < warmup:
        return start + (peak - start) * time / warmup
    return cosine(time, peak=peak, low=low, warmup=warmup, total=total)


def _inverse_sqrt(share: float) -> float:
    return 1 / math.sqrt(1 + 10 * share) - 1
