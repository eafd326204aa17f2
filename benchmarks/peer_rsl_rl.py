"""rsl_rl's PPO on ResidualVectorEnv."""

import numpy as np
import torch
from peer_rollout import Rollouts, copy_parameters
from torch import nn


class RslRl(Rollouts):
    """One learning rate for actor and critic: our actor's; it has no KL stop.

    A time limit is bootstrapped by the value of the state before it, as rsl_rl does. The actor's
    head is ours: zero at first, without a bias.
    """

    name = "rsl_rl"
    schedule = "fixed"

    def __init__(self, env, network, config, seed, first_scene, steps):
        from rsl_rl.algorithms import PPO
        from rsl_rl.models import MLPModel
        from rsl_rl.storage import RolloutStorage

        super().__init__(env, network, config, first_scene, steps)
        torch.manual_seed(seed)
        self._observations = self._dictionary(self.reset())
        residual, size = network.config, network.config.residual_size
        groups = {"actor": ["policy"], "critic": ["policy"]}
        gaussian = {
            "class_name": "GaussianDistribution",
            "std_type": "log",
            "init_std": float(np.exp(residual.log_std_init)),
        }
        common = (residual.hidden_sizes, "tanh", False)
        actor = MLPModel(self._observations, groups, "actor", size, *common, gaussian)
        actor.mlp[-1] = nn.Linear(residual.hidden_sizes[-1], size, bias=False)
        nn.init.zeros_(actor.mlp[-1].weight)
        critic = MLPModel(self._observations, groups, "critic", 1, *common)
        rows = self.decisions * env.num_envs
        self._ppo = PPO(
            actor,
            critic,
            RolloutStorage("rl", env.num_envs, self.decisions, self._observations, (size,)),
            num_learning_epochs=config.epochs,
            num_mini_batches=-(-rows // config.minibatch_size),
            clip_param=config.clip_range,
            gamma=config.gamma,
            lam=config.gae_lambda,
            value_loss_coef=0.5,
            entropy_coef=config.entropy_coefficient,
            learning_rate=config.actor_learning_rate,
            max_grad_norm=config.max_grad_norm,
            use_clipped_value_loss=False,
            schedule=self.schedule,
        )
        self._ppo.optimizer.param_groups[0]["eps"] = 1e-5
        self._actor = actor

    def _dictionary(self, observations: np.ndarray):
        from tensordict import TensorDict

        rows = torch.from_numpy(observations)
        return TensorDict({"policy": rows}, batch_size=[len(rows)])

    def iterate(self) -> int:
        """Collect a batch and update; return the control steps of it."""
        before = self.steps
        if self.schedule == "fixed":
            self._ppo.optimizer.param_groups[0]["lr"] = self.learning_rate
        with torch.inference_mode():
            for _ in range(self.decisions):
                actions = self._ppo.act(self._observations)
                observations, rewards, terminated, truncated, _ = self.step(actions.numpy())
                self._observations = self._dictionary(observations)
                self._ppo.process_env_step(
                    self._observations,
                    torch.from_numpy(rewards).float(),
                    torch.from_numpy(terminated | truncated),
                    {"time_outs": torch.from_numpy(truncated)},
                )
            self._ppo.compute_returns(self._observations)
        self._ppo.update()
        return self.steps - before

    def copy_actor(self, network) -> None:
        """Copy the actor into our network."""
        copy_parameters(self._actor.mlp, network.actor)


class AdaptiveRslRl(RslRl):
    """With the adaptive learning rate that rsl_rl's own configurations have."""

    name = "rsl_rl_adaptive"
    schedule = "adaptive"
