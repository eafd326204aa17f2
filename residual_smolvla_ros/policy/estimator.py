"""Where the task's object is, estimated from vision tokens: a real arm knows no more of it.

Source: Ji et al. 2022, arXiv:2202.05481, which trains a policy and a state estimator concurrently.
"""

import torch
from torch import nn

from residual_smolvla_ros.policy.features import (
    ESTIMATE_SIZE,
    TARGET_CLIP,
    TARGET_SCALE,
    TCP_SCALE,
    ResidualConfig,
)

# What it is estimated from, beside the tokens.
INPUTS = ("state", "base_action", "planned_tcp", "vision", "vision_age")
HIDDEN = 256
NORMALISED_CLIP = 5.0


class TargetEstimator(nn.Module):
    """Replace the vision tokens in the features by where the target is estimated to be.

    The estimate, ESTIMATE_SIZE values, is as the features target_from_tcp and target_from_plan.
    It is frozen where it is used: `learning/estimation.py` trains it between updates.
    """

    def __init__(self, config: ResidualConfig):
        super().__init__()
        self._block, self._planned = config.columns("vision"), config.columns("planned_tcp")
        start = self._block.start
        self.estimates = slice(start, start + ESTIMATE_SIZE)  # where they are in what is returned
        every = torch.arange(config.feature_size)
        names = [name for name in INPUTS if name in config.features]
        columns = torch.cat([every[config.columns(name)] for name in names])
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("mean", torch.zeros(len(columns)))
        self.register_buffer("std", torch.ones(len(columns)))
        self.layers = nn.Sequential(
            nn.Linear(len(columns), HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, 3),
        ).requires_grad_(False)

    @property
    def is_fitted(self) -> bool:
        """Whether statistics have been taken or loaded."""
        return bool((self.std != 1.0).any())

    def fit(self, features: torch.Tensor) -> None:
        """Take the statistics of a batch (n, feature_size), once."""
        if self.is_fitted:
            return
        inputs = features[:, self.columns]
        self.mean.copy_(inputs.mean(dim=0))
        self.std.copy_(inputs.std(dim=0, correction=0).clamp_min(1e-2))

    def inputs(self, features: torch.Tensor) -> torch.Tensor:
        """Return what `layers` take (n, inputs) of features (n, feature_size)."""
        scaled = (features[:, self.columns] - self.mean) / self.std
        return scaled.clamp(-NORMALISED_CLIP, NORMALISED_CLIP)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return features whose vision is the estimate."""
        target = self.layers(self.inputs(features))
        planned = features[:, self._planned]
        # What the actor must do with the plan is told by the small difference of two large numbers.
        plans = planned.shape[1] // target.shape[1]
        miss = (TARGET_SCALE / TCP_SCALE) * (target.repeat(1, plans) - planned)
        estimate = [target, miss.clamp(-TARGET_CLIP, TARGET_CLIP)]
        before, after = features[:, : self._block.start], features[:, self._block.stop :]
        return torch.cat([before, *estimate, after], dim=1)
