"""Signs of learning on inputs whose answer is known; FLOPs; curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from storage.fs import open_store
from training.curves import drop_curves, write_curves
from training.flops import measured_peak, sample_flops
from training.heldout import band_errors, effective_rank, look
from training.loop import Batch, Trainer
from training.models.tokens import take_tokens
from training.pixel_targets import patchify, unpatchify

Serve = Callable[[int, int], Iterator[Batch]]
Make = Callable[[], Trainer]


def test_the_effective_rank_of_known_features() -> None:
    draw = torch.Generator().manual_seed(0)
    assert effective_rank(torch.ones(50, 8)) == pytest.approx(1.0, abs=1e-6)
    assert effective_rank(torch.eye(8)) == pytest.approx(8.0, rel=1e-6)
    sizes = torch.tensor([0.5, 0.25, 0.25])
    wanted = float(torch.exp(-(sizes * sizes.log()).sum()))
    assert effective_rank(torch.diag(sizes)) == pytest.approx(wanted, rel=1e-6)
    noise = torch.randn(400, 8, generator=draw)
    assert 7 < effective_rank(noise) < effective_rank(torch.eye(8)) + 1e-6


def test_a_collapsed_encoder_is_seen(trainer: Make, batches: Serve) -> None:
    alive = look(trainer(), batches(0, 2), 16)
    assert alive["dead_dimensions"] == 0 and alive["token_variance"] > 0.1
    assert 1 < alive["effective_rank"] <= 16
    half, flat = trainer(), trainer()
    with torch.no_grad():
        half.model.norm.weight[:6] = 0
        flat.model.norm.weight.zero_()
    assert look(half, batches(0, 2), 16)["dead_dimensions"] == pytest.approx(6 / 24)
    dead = look(flat, batches(0, 2), 16)
    assert dead["dead_dimensions"] == 1.0 and dead["token_variance"] == 0.0


def test_errors_by_frequency(trainer: Make, batches: Serve) -> None:
    made = trainer()
    batch = next(batches(0, 1))
    # All tokens hidden, so that a filter of the whole picture is a prediction.
    batch |= {"decoded": torch.arange(16).repeat(8, 1), "visible": torch.zeros(8, 0).long()}
    inputs = made.inputs(batch["pixels"])
    target = made.objective.targets[0]
    truth = made.objective.target_values(target, batch, inputs)
    shares = []
    picture = unpatchify(truth, made.objective.layout, inputs.shape)
    smooth = torch.fft.fft2(picture)
    frequency = torch.hypot(torch.fft.fftfreq(16)[:, None], torch.fft.fftfreq(16))
    smooth[..., frequency >= 0.25] = 0
    coarse = patchify(torch.fft.ifft2(smooth).real, made.objective.layout)
    for predicted in (truth, torch.zeros_like(truth), coarse):
        values = take_tokens(predicted, batch["decoded"])
        wrong, right = band_errors(made, batch, inputs, {"pixels": values})
        shares.append((wrong / right).tolist())
    assert shares[0] == [0.0, 0.0, 0.0]
    assert shares[1] == pytest.approx([1.0, 1.0, 1.0])
    assert shares[2] == pytest.approx([0.0, 0.0, 1.0], abs=1e-3)


def test_flops_are_those_of_the_products(trainer: Make, batches: Serve) -> None:
    made, batch = trainer(), next(batches(0, 1))

    def blocks(depth: int, tokens: int, width: int) -> int:
        return depth * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width)

    seen, width, inner = 4, 24, 16
    forward = 2 * seen * 48 * width + blocks(2, seen + 1, width) + 2 * (seen + 1) * width * inner
    # The decoder's only block is its last: keys and values of all tokens, the rest of those asked.
    asked, tokens = 12, 17
    forward += 2 * (2 * tokens + 10 * asked) * inner**2 + 4 * asked * tokens * inner
    forward += 2 * asked * inner * 48
    assert sample_flops(made, batch) == pytest.approx(3 * forward, rel=1e-6)
    assert measured_peak(torch.device("cpu"), "fp32") > 1e8


def test_curves_are_what_the_log_says(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    lines = [{"step": s, "loss": 1.0 / s, "seconds": 2.0, "note": "text"} for s in range(1, 7)]
    write_curves(store, "run", lines[:3], 3)
    write_curves(store, "run", lines, 6)
    drop_curves(store, "run", 3)
    lines = [*lines[:3], *({**line, "loss": 7.0} for line in lines[3:5])]
    write_curves(store, "run", lines, 5)
    read = EventAccumulator(str(tmp_path / "runs" / "run" / "tensorboard"))
    read.Reload()
    assert read.Tags()["scalars"] == ["loss"]
    events = read.Scalars("loss")
    assert [event.step for event in events] == [1, 2, 3, 4, 5]
    assert [event.value for event in events] == pytest.approx([x["loss"] for x in lines])
    assert [event.wall_time for event in events] == [2.0, 4.0, 6.0, 8.0, 10.0]
