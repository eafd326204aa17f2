"""Stable-Baselines3's PPO on ResidualVectorEnv."""

import warnings

import numpy as np
import torch
from peer_rollout import Rollouts, copy_parameters
from torch import nn


class StableBaselines(Rollouts):
    """One learning rate for actor and critic: our actor's; its KL stop is at 1.5 times the target.

    The actor's head is ours: zero at first, without a bias.
    """

    name = "Stable-Baselines3"

    def __init__(self, env, network, config, seed, first_scene, steps):
        from stable_baselines3 import PPO
        from stable_baselines3.common.logger import configure

        super().__init__(env, network, config, first_scene, steps)
        rows = self.decisions * env.num_envs
        hidden = list(network.config.hidden_sizes)
        self._ppo = PPO(
            "MlpPolicy",
            _vec_env(self),
            learning_rate=lambda _: self.learning_rate,
            n_steps=self.decisions,
            batch_size=min(config.minibatch_size, rows),
            n_epochs=config.epochs,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            clip_range=config.clip_range,
            ent_coef=config.entropy_coefficient,
            max_grad_norm=config.max_grad_norm,
            target_kl=config.target_kl or None,
            policy_kwargs={
                "net_arch": {"pi": hidden, "vf": hidden},
                "log_std_init": network.config.log_std_init,
            },
            seed=seed,
            device="cpu",
        )
        self._ppo.set_logger(configure(None, []))
        policy = self._ppo.policy
        policy.action_net = nn.Linear(hidden[-1], network.config.residual_size, bias=False)
        nn.init.zeros_(policy.action_net.weight)
        rate = config.actor_learning_rate
        policy.optimizer = torch.optim.Adam(policy.parameters(), lr=rate, eps=1e-5)

    def iterate(self) -> int:
        """Collect a batch and update; return the control steps of it."""
        before = self.steps
        rows = self.decisions * self.env.num_envs
        self._ppo.learn(rows, log_interval=None, reset_num_timesteps=False)
        return self.steps - before

    def copy_actor(self, network) -> None:
        """Copy the actor into our network."""
        policy = self._ppo.policy
        parts = nn.Sequential(policy.mlp_extractor.policy_net, policy.action_net)
        copy_parameters(parts, network.actor)


def _vec_env(rollouts: Rollouts):
    from stable_baselines3.common.vec_env import VecEnv

    class NormalisedVecEnv(VecEnv):
        """What Stable-Baselines3 steps."""

        def reset(self):
            return rollouts.reset()

        def step_async(self, actions):
            self._actions = actions

        def step_wait(self):
            observations, rewards, terminated, truncated, final = rollouts.step(self._actions)
            done = terminated | truncated
            infos = [{"TimeLimit.truncated": bool(cut)} for cut in truncated]
            for index in np.flatnonzero(done):
                infos[index]["terminal_observation"] = final[index]
            return observations, rewards.astype(np.float32), done, infos

        def close(self):
            pass

        def get_attr(self, attr_name, indices=None):
            return [getattr(rollouts.env, attr_name)] * self.num_envs

        def set_attr(self, attr_name, value, indices=None):
            raise NotImplementedError

        def env_method(self, method_name, *args, indices=None, **kwargs):
            raise NotImplementedError

        def env_is_wrapped(self, wrapper_class, indices=None):
            return [False] * self.num_envs

    warnings.filterwarnings("ignore", category=UserWarning, module="stable_baselines3")
    env = rollouts.env
    return NormalisedVecEnv(env.num_envs, env.single_observation_space, env.single_action_space)
