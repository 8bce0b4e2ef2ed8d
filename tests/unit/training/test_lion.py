"""Lion against its definition, written out."""

from __future__ import annotations

import torch

from training.models.config import ModelConfig, ModelInput
from training.models.families import build_model
from training.optim import make_optimizer
from training.optim_config import OptimConfig


def test_lion_moves_by_the_sign_and_decays_matrices_only() -> None:
    config = ModelConfig(
        family="micromae", patch=4, width=8, depth=1, heads=2, decoder_width=8, decoder_heads=2
    )
    model = build_model(config, ModelInput(channels=2, size=8, widths={"pixels": 0}))
    optim = OptimConfig(kind="lion", lr=0.1, weight_decay=0.5, betas=(0.8, 0.9))
    optimizer = make_optimizer(model, optim)
    matrix, gain = model.decoder_pred.weight, model.decoder_pred.bias
    expected, momenta = [matrix.detach().clone(), gain.detach().clone()], [0.0, 0.0]
    for step in range(3):
        for place, parameter in enumerate((matrix, gain)):
            parameter.grad = torch.sin(torch.arange(parameter.numel()) * 1.7 + step).view_as(
                parameter
            )
            decay = 0.5 if parameter is matrix else 0.0
            direction = torch.sign(0.8 * momenta[place] + 0.2 * parameter.grad)
            expected[place] = expected[place] * (1 - 0.1 * decay) - 0.1 * direction
            momenta[place] = 0.9 * momenta[place] + 0.1 * parameter.grad
        optimizer.step()
    assert torch.allclose(matrix, expected[0])
    assert torch.allclose(gain, expected[1])
