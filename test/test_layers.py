"""Layers of our own against torch's: outputs and gradients."""

import pytest
import torch
from torch import nn

from residual_smolvla_ros.learning.layers import run


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rows", [1, 7, 512])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_torchs(rows, bias):
    layers = nn.Sequential(nn.Linear(48, 64), nn.Tanh(), nn.LayerNorm(64), nn.Linear(64, 5, bias))
    x = normal(rows, 48).requires_grad_()
    inputs = [x, *layers.parameters()]
    ours, theirs = run(layers, x), layers(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(ours.square().sum(), inputs),
        torch.autograd.grad(theirs.square().sum(), inputs),
        rtol=1e-4,
        atol=1e-4,
    )


def test_the_same_input_gives_the_same_bits():
    layers = nn.Sequential(nn.Linear(48, 64), nn.Tanh(), nn.Linear(64, 5))
    assert torch.equal(run(layers, normal(100, 48)), run(layers, normal(100, 48)))
