"""The residual's networks: a Gaussian actor that starts at zero, and a critic."""

import itertools
import math
from collections.abc import Iterable

import torch
from torch import nn

from residual_smolvla_ros.policy.estimator import TargetEstimator
from residual_smolvla_ros.policy.features import ResidualConfig

NORMALISED_CLIP = 5.0
# Share of the batch's variance below which a direction is noise, not to be blown up.
MIN_VARIANCE_SHARE = 1e-7


class TokenProjection(nn.Module):
    """Replace a block of the features by its leading principal components, whitened.

    `block` is where the vision tokens are in the features.
    """

    def __init__(self, block: slice, components: int):
        super().__init__()
        self._block = block
        size = block.stop - block.start
        self.register_buffer("mean", torch.zeros(size))
        # Each axis over its standard deviation; zero where the batch had fewer directions.
        self.register_buffer("axes", torch.zeros(size, components))

    @property
    def is_fitted(self) -> bool:
        """Whether axes have been taken or loaded."""
        return bool(self.axes.any())

    def fit(self, features: torch.Tensor) -> None:
        """Take mean and axes of a batch (n, feature_size)."""
        tokens = features[:, self._block].double()
        mean = tokens.mean(dim=0)
        centred = tokens - mean
        rows, size = centred.shape
        # Of the two matrices of products, which share their eigenvalues, the smaller one.
        gram = centred @ centred.T if rows < size else centred.T @ centred
        variances, vectors = torch.linalg.eigh(gram / rows)
        order = variances.argsort(descending=True)[: self.axes.shape[1]]
        order = order[variances[order] > MIN_VARIANCE_SHARE * variances.sum()]
        variances, vectors = variances[order], vectors[:, order]
        if rows < size:
            vectors = centred.T @ vectors / (rows * variances).sqrt()
        # Which way an axis points is not told by the batch: its largest entry is positive.
        largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
        self.mean.copy_(mean)
        self.axes.zero_()
        self.axes[:, : len(order)] = (vectors * largest.sign() / variances.sqrt()).float()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        components = (features[:, self._block] - self.mean) @ self.axes
        before, after = features[:, : self._block.start], features[:, self._block.stop :]
        return torch.cat([before, components, after], dim=1)


class FeatureNormaliser(nn.Module):
    """Shift and scale features to mean 0 and variance 1 by statistics that are set, not learned.

    With a `projection` the features pass through it first; `size` is what is left of them then.
    `hidden` are columns of that which no network gets: 0 stands for them.
    """

    def __init__(
        self,
        size: int,
        projection: TokenProjection | TargetEstimator | None = None,
        hidden: torch.Tensor | None = None,
    ):
        super().__init__()
        self._hidden = hidden
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.projection = projection

    @property
    def is_fitted(self) -> bool:
        """Whether statistics have been taken or loaded."""
        whitens = isinstance(self.projection, TokenProjection) and self.projection.is_fitted
        return whitens or bool((self.std != 1.0).any())

    def fit(self, features: torch.Tensor) -> None:
        """Take the statistics of a batch (n, feature_size)."""
        if self.projection is not None:
            self.projection.fit(features)
            features = self.projection(features)
        self.take(features.mean(dim=0), features.std(dim=0, correction=0))

    def take(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Take statistics (size,) of what `project` returns."""
        self.mean.copy_(mean)
        # A feature that hardly varies must not be blown up to noise.
        self.std.copy_(std.clamp_min(1e-2))
        if isinstance(self.projection, TargetEstimator):
            # Estimates are of about one, and vary little only while there is little to go by.
            self.mean[self.projection.estimates] = 0.0
            self.std[self.projection.estimates] = 1.0

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Return features (n, feature_size) as they are (n, size) before statistics."""
        return features if self.projection is None else self.projection(features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the networks' input (n, size) of features (n, feature_size)."""
        scaled = (self.project(features) - self.mean) / self.std
        if self._hidden is not None:
            scaled[:, self._hidden] = 0.0
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


def _columns(sizes: dict[str, int], names: Iterable[str]) -> torch.Tensor:
    chosen = [torch.full((size,), name in names) for name, size in sizes.items()]
    return torch.cat(chosen).nonzero().squeeze(1)


def _projection(config: ResidualConfig) -> TokenProjection | TargetEstimator | None:
    if config.estimate:
        return TargetEstimator(config)
    if not (config.needs_tokens and config.vision_components):
        return None
    return TokenProjection(config.columns("vision"), config.vision_components)


class ResidualActorCritic(nn.Module):
    """Separate MLPs for the residual's mean and the value, with a state-independent log_std.

    The actor's head is zero and has no bias, so an untrained residual is exactly the base
    (ResiP). The critic sees all features but `label_only`, the actor all but `critic_only`. `seed`
    makes the initial weights reproducible.
    """

    def __init__(self, config: ResidualConfig, seed: int = 0):
        super().__init__()
        self.config = config
        inputs = config.input_sizes
        columns = _columns(inputs, inputs.keys() - set(config.critic_only))
        labels = _columns(inputs, config.label_only) if config.label_only else None
        hidden = list(config.hidden_sizes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = _mlp(
                [len(columns), *hidden], config.residual_size, output_gain=0.0, output_bias=False
            )
            self.critic = _mlp(
                [sum(inputs.values()), *hidden], 1, output_gain=1.0, output_bias=True
            )
            self.normaliser = FeatureNormaliser(sum(inputs.values()), _projection(config), labels)
        self.log_std = nn.Parameter(torch.full((config.residual_size,), config.log_std_init))
        # No part of the weights: the configuration tells.
        self.register_buffer("actor_columns", columns, persistent=False)
        # Share of the residual that is carried out; no density or value depends on it.
        self.register_buffer("gain", torch.ones(()))

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # Checkpoints from before there was a gain carried the residual out in full.
        state_dict.setdefault(f"{prefix}gain", torch.ones(()))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the residual's mean (n, residual_size) and the value (n,)."""
        x = self.normaliser(features)
        return self.bound(self.actor(self.actor_input(x))), self.critic(x).squeeze(-1)

    def actor_input(self, x: torch.Tensor) -> torch.Tensor:
        """Return the actor's share of normalised features."""
        return x[:, self.actor_columns] if self.config.critic_only else x

    def bound(self, mean: torch.Tensor) -> torch.Tensor:
        """Return the residual's mean for the actor's output, within the bound with `squash`."""
        limit = self.config.residual_clip
        return limit * torch.tanh(mean / limit) if self.config.squash else mean

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
