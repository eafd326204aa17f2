"""Proximal policy optimisation of the residual: the clipped objective, read as in the paper.

Source: Schulman et al. 2017, arXiv:1707.06347; details as in CleanRL's ppo_continuous_action.
"""

from dataclasses import dataclass

import torch
from torch import nn

from residual_smolvla_ros.learning.rollout import Batch
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic


@dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters, named as in the papers; discounting is per decision, not per step."""

    gamma: float = 0.99  # ResiP; 0.999 for long tasks with sparse reward
    gae_lambda: float = 0.95  # ResiP
    clip_range: float = 0.2  # Schulman et al.
    epochs: int = 8
    minibatch_size: int = 512
    actor_learning_rate: float = 7e-4
    critic_learning_rate: float = 1e-3
    target_kl: float = 0.05  # a robot's batches are small: stop before they are overfitted (RLinf)
    entropy_coefficient: float = 0.0
    max_grad_norm: float = 1.0  # ResiP
    residual_penalty: float = 0.0  # on the mean squared residual


def make_optimiser(network: ResidualActorCritic, config: PPOConfig) -> torch.optim.Adam:
    """Return Adam with one group for the actor and one for the critic."""
    return torch.optim.Adam(
        [
            {
                "params": [*network.actor.parameters(), network.log_std],
                "lr": config.actor_learning_rate,
            },
            {"params": list(network.critic.parameters()), "lr": config.critic_learning_rate},
        ],
        eps=1e-5,
    )


def clipped_objective(
    log_probs: torch.Tensor, old_log_probs: torch.Tensor, advantages: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return PPO's loss, -E[min(r A, clip(r, 1 - clip, 1 + clip) A)], a scalar."""
    ratio = torch.exp(log_probs - old_log_probs)
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return -torch.min(ratio * advantages, clipped * advantages).mean()


def update(
    network: ResidualActorCritic,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    config: PPOConfig,
    generator: torch.Generator,
    train_actor: bool = True,
) -> dict[str, float]:
    """Fit the network to a batch in place and return the update's metrics.

    Stops once the KL divergence from the acting policy passes `target_kl`: the critic too, which
    overfits the few episodes of a batch otherwise. With `train_actor` false only the critic learns
    (warm-up).
    """
    advantages = (batch.advantages - batch.advantages.mean()) / (
        batch.advantages.std(correction=0) + 1e-8
    )
    actor_parameters = [*network.actor.parameters(), network.log_std]
    sums: dict[str, list[float]] = {}
    epochs = 0
    kl = 0.0
    for _ in range(config.epochs):
        order = torch.randperm(len(batch), generator=generator)
        for rows in order.split(config.minibatch_size):
            mean, value = network(batch.features[rows])
            value_loss = 0.5 * (value - batch.returns[rows]).square().mean()
            loss = value_loss
            parts = {"value_loss": value_loss}
            if train_actor:
                log_probs = network.log_prob(mean, batch.residuals[rows])
                policy_loss = clipped_objective(
                    log_probs, batch.log_probs[rows], advantages[rows], config.clip_range
                )
                entropy = network.entropy()
                penalty = mean.square().mean()
                loss = (
                    loss
                    + policy_loss
                    - config.entropy_coefficient * entropy
                    + config.residual_penalty * penalty
                )
                parts |= {"policy_loss": policy_loss, "entropy": entropy, "residual_ms": penalty}
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            # Clipped apart: a large value error must not shrink the actor's step.
            nn.utils.clip_grad_norm_(network.critic.parameters(), config.max_grad_norm)
            if train_actor:
                nn.utils.clip_grad_norm_(actor_parameters, config.max_grad_norm)
            optimiser.step()
            for name, part in parts.items():
                sums.setdefault(name, []).append(part.item())
        epochs += 1
        if train_actor:
            kl = _kl_divergence(network, batch)
            if kl > config.target_kl:
                break
    metrics = {name: sum(values) / len(values) for name, values in sums.items()}
    metrics |= {
        "kl": kl,
        "epochs": float(epochs),
        "explained_variance": _explained_variance(batch),
        "std": float(network.log_std.detach().exp().mean()),
    }
    return metrics


@torch.no_grad()
def _kl_divergence(network: ResidualActorCritic, batch: Batch) -> float:
    # Schulman's estimator k3: unbiased and never negative.
    mean, _ = network(batch.features)
    log_ratio = network.log_prob(mean, batch.residuals) - batch.log_probs
    return float((log_ratio.exp() - 1.0 - log_ratio).mean())


def _explained_variance(batch: Batch) -> float:
    variance = batch.returns.var(correction=0)
    return (
        float(1.0 - (batch.returns - batch.values).var(correction=0) / variance)
        if variance > 0
        else 0.0
    )
