"""Settings of a recipe that change how it trains: each does what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from training.drop_path import KEPT, drop_paths
from training.loop import Batch, Hooks, Trainer, take_step, train
from training.optim import layer_scales, rate_of
from training.optim_config import InfiniteConfig, OptimConfig
from training.recipe import Recipe
from training.state import kept_weights, restore, snapshot_state

Serve = Callable[[int, int], Iterator[Batch]]
Make = Callable[..., Trainer]


@pytest.fixture
def make(trainer: Make) -> Make:
    """Return the maker of trainers under a name that leaves `trainer` to what it makes."""
    return trainer


def kept_values(trainer: Trainer, batch: Batch) -> tuple[list[torch.Tensor], int]:
    """Return the gradients of a step, and how many values autograd kept for them."""
    kept = 0

    def count(value: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += value.numel()
        return value

    with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
        take_step(trainer, batch)
    return [p.grad for p in trainer.model.parameters() if p.grad is not None], kept


def test_recomputing_keeps_less_and_gives_equal_gradients(make: Make, batches: Serve) -> None:
    batch = next(batches(0, 1))
    plain, much = kept_values(make(), batch)
    again, little = kept_values(make(recompute=True), batch)
    assert all(map(torch.equal, plain, again)) and len(plain) == len(again)
    assert little < 0.5 * much


def test_a_dropped_branch_adds_nothing_and_the_others_make_up_for_it(make: Make) -> None:
    model = make().model
    block, x = model.blocks[1], torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(0))
    plain, seen = block(x) - x, block.attn(block.norm1(x))
    paths = drop_paths(model, 0.5, seed=0)
    assert paths.rates == [0.0, 0.0, 0.5, 0.5]
    batch = paths.draw({"sample": torch.arange(4000)}, step=3)
    assert torch.equal(batch[KEPT].unique(), torch.tensor([0.0, 1.0, 2.0]))
    torch.testing.assert_close(batch[KEPT].mean(0), torch.ones(4), atol=0.1, rtol=0)
    paths.kept = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 2.0, 0.0]])
    added = block(x) - x
    torch.testing.assert_close(added[0], plain[0])
    assert not added[1].any()
    torch.testing.assert_close(added[2], 2 * seen[2])
    assert torch.equal(block.eval()(x) - x, plain)


def test_dropped_branches_do_not_depend_on_how_a_batch_is_split(
    make: Make, batches: Serve, hooks: Callable[..., Hooks]
) -> None:
    whole, parts, plain = make(drop_path=0.4), make(drop_path=0.4, accumulate=4), make()
    for trainer in (whole, parts, plain):
        train(trainer, batches(0, 3), range(0, 3), hooks())
    name = "blocks.1.mlp.fc1.weight"
    wanted = whole.model.get_parameter(name)
    torch.testing.assert_close(parts.model.get_parameter(name), wanted, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(plain.model.get_parameter(name), wanted, rtol=1e-3, atol=1e-4)


def test_the_average_is_put_in_place_and_taken_out_again(make: Make, batches: Serve) -> None:
    trainer = make(ema=0.9)
    for batch in batches(0, 2):
        take_step(trainer, batch)
    before = snapshot_state(trainer, 2)
    own = {name: value.clone() for name, value in before["model"].items()}
    with trainer.average.in_place():  # type: ignore[union-attr]
        held = {n: value.clone() for n, value in trainer.model.state_dict().items()}
    wanted = kept_weights(before)
    assert all(torch.equal(held[name], wanted[name]) for name in wanted)
    assert all(torch.equal(trainer.model.state_dict()[name], own[name]) for name in own)
    assert any(not torch.equal(held[name], own[name]) for name in own)


def test_the_average_follows_its_formula_and_is_saved(make: Make, batches: Serve) -> None:
    trainer = make(ema=0.9)
    name = "blocks.0.mlp.fc1.weight"
    weight = trainer.model.get_parameter(name)
    wanted = weight.detach().clone()
    for batch in batches(0, 3):
        take_step(trainer, batch)
        wanted = 0.9 * wanted + 0.1 * weight.detach()
    state = snapshot_state(trainer, 3)
    torch.testing.assert_close(state["average"][name], wanted)
    torch.testing.assert_close(kept_weights(state)[name], wanted)
    assert "pos_embed" in kept_weights(state)
    other = make(ema=0.9)
    restore(other, state)
    assert torch.equal(other.average.values[name], state["average"][name])  # type: ignore[union-attr]


def test_clipping_bounds_the_step(make: Make, batches: Serve) -> None:
    batch = next(batches(0, 1))
    norms = []
    for clip in (0.0, 0.01):
        trainer = make()
        trainer.clip = clip
        figures = take_step(trainer, batch)
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        assert float(figures["grad_norm"]) > 0.1
    assert norms[1] == pytest.approx(0.01, rel=1e-3) and norms[0] > 0.1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_full(precision: str, make: Make, batches: Serve) -> None:
    batch = next(batches(0, 1))
    full, half = make(), make(precision=precision)
    losses = [float(take_step(trainer, batch)["loss"]) for trainer in (full, half)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert half.scaler.is_enabled() == (precision == "fp16")


def test_a_scaler_passes_over_infinite_gradients_and_is_resumed(
    make: Make, batches: Serve, hooks: Callable[..., Hooks]
) -> None:
    trainer = make(precision="fp16")
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    take_step(trainer, next(batches(0, 1)))
    assert all(torch.equal(p, before[n]) for n, p in trainer.model.named_parameters())
    lines: list[dict[str, Any]] = []
    train(trainer, batches(0, 8), range(0, 8), hooks(lines, log_every=8))
    assert trainer.scaler.get_scale() < 2.0**40
    other = make(precision="fp16")
    restore(other, snapshot_state(trainer, 8))
    assert other.scaler.get_scale() == trainer.scaler.get_scale()


def test_layers_below_learn_slower(make: Make, recipe: Recipe) -> None:
    names = [
        "patch_embed.proj.weight", "cls_token", "blocks.0.norm1.weight", "blocks.1.norm1.weight",
        "norm.weight", "decoder_blocks.0.norm1.weight", "mask_token",
    ]  # fmt: skip
    scales = list(layer_scales(names, 0.5).values())
    assert scales == [0.125, 0.125, 0.25, 0.5, 1.0, 1.0, 1.0]
    for prefix in ("encoder.", "encoder.vit_backbone."):
        assert list(layer_scales([prefix + names[2], "decoder.blocks.0.x"], 0.5).values()) == [
            0.5,
            1.0,
        ]
    trainer = make(optim=replace(recipe.optim, layer_decay=0.5))
    found = {group["lr_scale"] for group in trainer.optimizer.param_groups}
    assert found == {0.125, 0.25, 0.5, 1.0}
    learned = [p for p in trainer.model.parameters() if p.requires_grad]
    assert sum(len(g["params"]) for g in trainer.optimizer.param_groups) == len(learned)


def test_the_infinite_schedule_is_prolonged_by_phases_in_steps() -> None:
    short = OptimConfig(lr=1.0, schedule="infinite", infinite=InfiniteConfig(ends=(4, 8, 20)))
    long = replace(short, infinite=InfiniteConfig(ends=(4, 8, 80)))
    rates = rate_of(short, 30), rate_of(long, 100)
    assert [rates[0](step) for step in range(20)] == [rates[1](step) for step in range(20)]
    assert rates[0](25) < rates[1](25) == pytest.approx(0.1)
    assert rates[0](29) == pytest.approx(0.01, rel=0.3)
    later = rate_of(short, 30, first_task=False)
    assert [later(step) for step in range(10)] == [0.1] * 10
