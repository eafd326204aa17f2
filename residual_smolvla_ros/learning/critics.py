"""An ensemble of critics of state and action, evaluated in one go."""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional


class Critics(nn.Module):
    """An ensemble of MLPs with layer normalisation, all evaluated at once."""

    def __init__(self, inputs: int, hidden_sizes: tuple[int, ...], members: int):
        super().__init__()
        sizes = [inputs, *hidden_sizes, 1]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for size, following in itertools.pairwise(sizes):
            bound = 1.0 / math.sqrt(size)
            self.weights.append(torch.empty(members, size, following).uniform_(-bound, bound))
            self.biases.append(torch.zeros(members, 1, following))

    def forward(
        self, x: torch.Tensor, action: torch.Tensor, members: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return values (members, n) of inputs (n, size) and actions (n, residual_size) in +-1."""
        x = torch.cat([x, action], dim=1)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if members is not None:
                weight, bias = weight[members], bias[members]
            if index:
                # What is learned of a scale and shift, the next layer can learn too.
                x = functional.relu(functional.layer_norm(x, x.shape[-1:]))
            else:
                x = x.expand(len(weight), *x.shape)
            x = torch.baddbmm(bias, x, weight)
        return x.squeeze(-1)


def bellman_target(
    values: torch.Tensor, rewards: torch.Tensor, discounts: torch.Tensor
) -> torch.Tensor:
    """Return what critics are to say (n,), given the values (members, n) of what follows."""
    return rewards + discounts * values.min(dim=0).values
