"""Learn from episodes that one's own loop plays."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch

from residual_smolvla_ros.api.policy import ResidualSmolVLAPolicy
from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.learning.rollout import Episode, make_batch


class ResidualRLTrainer:
    """PPO on a policy's own episodes, by the learner of the node `learner`.

    `learning_rate` is the actor's; None leaves the config's. `device` must be the policy's: the
    residual's networks are small, and learn on the CPU.
    """

    def __init__(
        self,
        residual_policy: ResidualSmolVLAPolicy,
        learning_rate: float | None = None,
        device: str | None = None,
    ):
        given = residual_policy.learner
        if not isinstance(given.config, PPOConfig):
            raise ConfigError("algorithm: expected ppo, found another one; `train` knows it")
        if device is not None and torch.device(device).type != residual_policy.base.device.type:
            raise ConfigError(
                f"device: expected the policy's, {residual_policy.base.device}, found {device}"
            )
        config = given.config
        if learning_rate is not None:
            config = dataclasses.replace(config, actor_learning_rate=learning_rate)
        self.policy = residual_policy
        self.policy.explore = True
        cadence = (given.episodes_per_update, given.warmup_updates)
        self.learner = Learner(given.residual, config, *cadence, seed=residual_policy.seed)
        self.learner.network.load_state_dict(given.weights())
        self.policy.use_learner(self.learner)
        self.reset_rollout_storage()

    def reset_rollout_storage(self) -> None:
        """Begin an episode; what was recorded and not learned from is gone."""
        self.episode = Episode(weights_version=self.learner.counters.version)
        self._recorded = None

    def record_step(self, reward: float) -> None:
        """Keep the policy's last action, its value and log-probability, and what it earned."""
        step = self.policy.last_step
        if step is None or step is self._recorded:
            raise RuntimeError("record_step: expected an action of predict_action, found none new")
        self.episode.add_step(
            reward, step.decision, step.features, step.residual, step.log_prob, step.value
        )
        self._recorded = step

    @torch.no_grad()
    def compute_gae(self, final_observation: Mapping | None = None) -> tuple[np.ndarray, ...]:
        """Return advantages and returns (decisions,) of the episode so far.

        `final_observation` is that of the state that followed, where the episode was cut off
        there: the critic's value of it goes into the returns. Raises ValueError without a step.
        """
        config = self.learner.config
        batch = make_batch(
            [self._followed_by(final_observation)],
            self.learner.network.value,
            config.gamma,
            config.gae_lambda,
            time_limit_ends=config.time_limit_ends,
        )
        return batch.advantages.numpy(), batch.returns.numpy()

    def update_policy(
        self, final_observation: Mapping | None = None, success: bool = False
    ) -> dict[str, float]:
        """Give the episode to the learner; return its metrics, {} where it collects more first.

        `final_observation` is as of `compute_gae`. The policy has the new weights from here on.
        Raises ValueError for an episode that cannot be learned from; it is not taken then.
        """
        if not self.episode.steps:
            raise ValueError("rollout: expected at least one step, found none")
        episode = dataclasses.replace(self._followed_by(final_observation), success=success)
        metrics = self.learner.add_episode(episode)
        self.policy.use_learner(self.learner)
        self.reset_rollout_storage()
        return metrics or {}

    def _followed_by(self, final_observation: Mapping | None) -> Episode:
        if final_observation is None:
            return self.episode
        features = self.policy.extract_state_features(final_observation)
        return dataclasses.replace(self.episode, final_features=features, timed_out=True)
