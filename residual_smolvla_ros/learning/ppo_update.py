"""An update of proximal policy optimisation: the clipped objective, read as in the paper.

Source: Schulman et al. 2017, arXiv:1707.06347; details as in CleanRL's ppo_continuous_action.
"""

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import nn

from residual_smolvla_ros.learning.layers import run
from residual_smolvla_ros.learning.rollout import Batch
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic

if TYPE_CHECKING:
    from residual_smolvla_ros.learning.ppo import PPOConfig

# How an adaptive learning rate moves, and how far (rsl_rl).
LEARNING_RATE_FACTOR, LEARNING_RATE_RANGE = 1.5, (1e-5, 1e-2)


def make_optimiser(network: ResidualActorCritic, config: "PPOConfig") -> torch.optim.Adam:
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
        fused=True,
    )


def clipped_objective(ratio: torch.Tensor, advantages: torch.Tensor, clip: float) -> torch.Tensor:
    """Return PPO's loss, -E[min(r A, clip(r, 1 - clip, 1 + clip) A)], a scalar."""
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return -torch.min(ratio * advantages, clipped * advantages).mean()


def value_objective(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return half the mean squared error, a scalar; with `clip` the larger of two, as CleanRL's."""
    errors = (values - returns).square()
    if clip:
        near = old_values + (values - old_values).clamp(-clip, clip)
        errors = torch.max(errors, (near - returns).square())
    return 0.5 * errors.mean()


def divergence(log_ratio: torch.Tensor) -> torch.Tensor:
    """Return KL(old || new), estimated from the ratio of the densities of the old one's samples.

    Unbiased and never negative. Source: Schulman 2020, Approximating KL divergence, estimator k3.
    """
    return (log_ratio.exp() - 1.0 - log_ratio).mean()


def normalised(advantages: torch.Tensor) -> torch.Tensor:
    """Return advantages of mean 0 and deviation 1; a single one is 0."""
    std = advantages.std(correction=min(1, len(advantages) - 1))
    return (advantages - advantages.mean()) / (std + 1e-8)


def losses(
    network: ResidualActorCritic, batch: Batch, config: "PPOConfig", train_actor: bool = True
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss of a minibatch, whose features are normalised, and what it is made of."""
    values = run(network.critic, batch.features).squeeze(-1)
    loss = value_objective(values, batch.values, batch.returns, config.value_clip)
    parts = {"value_loss": loss}
    if not train_actor:
        return loss, parts
    mean = _mean(network, batch.features)
    log_ratio = network.log_prob(mean, batch.residuals) - batch.log_probs
    ratio = log_ratio.exp()
    advantages = batch.advantages
    if config.advantage_normalisation == "minibatch":
        advantages = normalised(advantages)
    parts["policy_loss"] = clipped_objective(ratio, advantages, config.clip_range)
    parts["entropy"] = network.entropy()
    parts["residual_ms"] = mean.square().mean()
    loss = (
        loss
        + parts["policy_loss"]
        - config.entropy_coefficient * parts["entropy"]
        + config.residual_penalty * parts["residual_ms"]
    )
    with torch.no_grad():
        parts["clip_fraction"] = ((ratio - 1.0).abs() > config.clip_range).float().mean()
        parts["minibatch_kl"] = divergence(log_ratio)
    return loss, parts


def _mean(network: ResidualActorCritic, features: torch.Tensor) -> torch.Tensor:
    return network.bound(run(network.actor, network.actor_input(features)))


def update(
    network: ResidualActorCritic,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    config: "PPOConfig",
    generator: torch.Generator,
    train_actor: bool = True,
) -> dict[str, float]:
    """Fit the network to a batch in place and return the update's metrics.

    Stops once the KL divergence from the acting policy passes `target_kl`: the critic too, which
    overfits the few episodes of a batch otherwise. With `train_actor` false only the critic learns
    (warm-up).
    """
    batch = dataclasses.replace(batch, features=network.normaliser(batch.features))
    if config.advantage_normalisation == "batch":
        batch = dataclasses.replace(batch, advantages=normalised(batch.advantages))
    actor_parameters = [*network.actor.parameters(), network.log_std]
    steps: list[dict[str, torch.Tensor]] = []
    epochs, kl, stopped = 0, 0.0, False
    while epochs < config.epochs and not stopped:
        shuffled = batch[torch.randperm(len(batch), generator=generator)]
        for start in range(0, len(batch), config.minibatch_size):
            minibatch = shuffled[start : start + config.minibatch_size]
            loss, parts = losses(network, minibatch, config, train_actor)
            if train_actor and config.kl_stop == "minibatch":
                stopped = 0.0 < config.target_kl < float(parts["minibatch_kl"])
                if stopped:
                    break
            if train_actor and config.learning_rate_schedule == "adaptive" and steps:
                _adapt(optimiser.param_groups[0], float(parts["minibatch_kl"]), config.desired_kl)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            # Clipped apart: a large value error must not shrink the actor's step.
            parts["critic_grad_norm"] = nn.utils.clip_grad_norm_(
                network.critic.parameters(), config.max_grad_norm
            )
            if train_actor:
                parts["actor_grad_norm"] = nn.utils.clip_grad_norm_(
                    actor_parameters, config.max_grad_norm
                )
            optimiser.step()
            steps.append({name: part.detach() for name, part in parts.items()})
        epochs += 1
        last = stopped or epochs == config.epochs
        if train_actor and (last or (config.kl_stop == "epoch" and config.target_kl)):
            with torch.no_grad():
                log_probs = network.log_prob(_mean(network, batch.features), batch.residuals)
                kl = float(divergence(log_probs - batch.log_probs))
            stopped = stopped or (config.kl_stop == "epoch" and 0.0 < config.target_kl < kl)
    actor, critic = optimiser.param_groups
    return _means(steps) | {
        "kl": kl,
        "epochs": float(epochs),
        "explained_variance": _explained_variance(batch),
        "std": float(network.log_std.detach().exp().mean()),
        "actor_learning_rate": actor["lr"],
        "critic_learning_rate": critic["lr"],
    }


def _adapt(group: dict, kl: float, desired: float) -> None:
    """Move a learning rate such that the divergence stays near the desired one, as rsl_rl does."""
    low, high = LEARNING_RATE_RANGE
    if kl > 2.0 * desired:
        group["lr"] = max(low, group["lr"] / LEARNING_RATE_FACTOR)
    elif 0.0 < kl < 0.5 * desired:
        group["lr"] = min(high, group["lr"] * LEARNING_RATE_FACTOR)


def _means(steps: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    names = steps[0] if steps else ()
    return {name: float(torch.stack([step[name] for step in steps]).mean()) for name in names}


def _explained_variance(batch: Batch) -> float:
    variance = batch.returns.var(correction=0)
    return (
        float(1.0 - (batch.returns - batch.values).var(correction=0) / variance)
        if variance > 0
        else 0.0
    )
