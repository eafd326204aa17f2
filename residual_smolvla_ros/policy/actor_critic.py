"""The residual's networks: a Gaussian actor that starts at zero, and a critic."""

import itertools
import math

import torch
from torch import nn

from residual_smolvla_ros.policy.features import ResidualConfig

NORMALISED_CLIP = 5.0


class FeatureNormaliser(nn.Module):
    """Shift and scale features to mean 0 and variance 1 by statistics that are set, not learned."""

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    @property
    def is_fitted(self) -> bool:
        """Whether statistics have been taken or loaded."""
        return bool((self.std != 1.0).any())

    def fit(self, features: torch.Tensor) -> None:
        """Take the statistics of a batch (n, size)."""
        self.mean.copy_(features.mean(dim=0))
        # A feature that hardly varies must not be blown up to noise.
        self.std.copy_(features.std(dim=0, correction=0).clamp_min(1e-2))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        scaled = (features - self.mean) / self.std
        return scaled.clamp(-NORMALISED_CLIP, NORMALISED_CLIP)


def _mlp(sizes: list[int], output: int, output_gain: float, output_bias: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        linear = nn.Linear(inputs, outputs)
        nn.init.orthogonal_(linear.weight, math.sqrt(2))
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Tanh()]
    head = nn.Linear(sizes[-1], output, bias=output_bias)
    if output_gain:
        nn.init.orthogonal_(head.weight, output_gain)
    else:
        nn.init.zeros_(head.weight)
    if output_bias:
        nn.init.zeros_(head.bias)
    return nn.Sequential(*layers, head)


class ResidualActorCritic(nn.Module):
    """Separate MLPs for the residual's mean and the value, with a state-independent log_std.

    The actor's head is zero and has no bias, so an untrained residual is exactly the base
    (ResiP). `seed` makes the initial weights reproducible.
    """

    def __init__(self, config: ResidualConfig, seed: int = 0):
        super().__init__()
        self.config = config
        sizes = [config.feature_size, *config.hidden_sizes]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = _mlp(sizes, config.residual_size, output_gain=0.0, output_bias=False)
            self.critic = _mlp(sizes, 1, output_gain=1.0, output_bias=True)
        self.log_std = nn.Parameter(torch.full((config.residual_size,), config.log_std_init))
        self.normaliser = FeatureNormaliser(config.feature_size)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the residual's mean (n, residual_size) and the value (n,)."""
        x = self.normaliser(features)
        return self.actor(x), self.critic(x).squeeze(-1)

    def value(self, features: torch.Tensor) -> torch.Tensor:
        """Return the value (n,) of features (n, feature_size)."""
        return self.critic(self.normaliser(features)).squeeze(-1)

    def log_prob(self, mean: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return the log-density (n,) of residuals (n, residual_size) under N(mean, std)."""
        z = (residual - mean) * torch.exp(-self.log_std)
        constant = 0.5 * math.log(2 * math.pi) * residual.shape[-1]
        return -0.5 * z.square().sum(-1) - self.log_std.sum() - constant

    def entropy(self) -> torch.Tensor:
        """Return the entropy of the residual's distribution, a scalar."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()
