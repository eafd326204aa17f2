"""Where the target is, estimated from vision tokens: what it is learned from, and what it gives.

In these episodes one token is the distance to the target ahead of the tool: it is there to be read.
"""

import numpy as np
import pytest
import torch

from residual_smolvla_ros.learning.estimation import Estimation, targets
from residual_smolvla_ros.learning.rollout import Episode
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import TARGET_SCALE, TCP_SCALE, ResidualConfig

TOKENS = (1, 4, 2)
NAMES = {
    "simulator": ["state", "planned_tcp", "vision", "target_from_tcp"],
    "hindsight": ["state", "planned_tcp", "vision", "tcp"],
}


def make_config(kind: str) -> ResidualConfig:
    critic_only = ("target_from_tcp",) if kind == "simulator" else ()
    return ResidualConfig.from_names(
        NAMES[kind], 2, token_shape=TOKENS, estimate=kind, critic_only=critic_only,
        hidden_sizes=(8,),
    )  # fmt: skip


def make_episode(config: ResidualConfig, seed: int, success: bool = True) -> Episode:
    """The tool descends for six decisions upon a target at (x, 0, 0), then lifts it for two."""
    rng = np.random.default_rng(seed)
    target, episode = np.array([rng.uniform(0.4, 0.6), 0.0, 0.0]), Episode(success=success)
    for step in range(8):
        height = 0.02 * abs(5 - step)
        tcp = np.array([target[0] - 3 * height, 0.0, height])
        tokens = rng.normal(size=np.prod(TOKENS))
        tokens[3] = 10 * (target[0] - tcp[0])
        values = {
            "state": rng.normal(size=2),
            "planned_tcp": np.zeros(9),
            "vision": tokens,
            "tcp": TCP_SCALE * tcp,
            "target_from_tcp": TCP_SCALE * (target - tcp),
        }
        episode.add_step(0.0, True, config.pack(values), np.zeros(5), 0.0, 0.0)
    return episode


def test_hindsight_finds_the_target_where_the_tool_was_lowest_and_only_up_to_then():
    """After the grasp the target moves with the tool: its place of before would be wrong."""
    config = make_config("hindsight")
    features, found = targets(make_episode(config, 0), config)
    known, expected = targets(make_episode(make_config("simulator"), 0), make_config("simulator"))
    assert len(features) == 6 < len(known)
    torch.testing.assert_close(found, expected[:6], atol=1e-5, rtol=0)


def test_hindsight_turns_with_the_arm():
    """target_from_tcp is seen from the base: forward, left, up."""
    config = make_config("hindsight")
    episode = Episode(success=True)
    for tcp in ([0.0, 0.2, 0.1], [0.0, 0.3, 0.0]):  # at a right angle to the left of the base
        values = {"state": np.zeros(2), "planned_tcp": np.zeros(9), "vision": np.zeros(8)}
        values["tcp"] = TCP_SCALE * np.array(tcp)
        episode.add_step(0.0, True, config.pack(values), np.zeros(5), 0.0, 0.0)
    _, found = targets(episode, config)
    expected = TCP_SCALE * torch.tensor([[0.1, 0.0, -0.1], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("change", [{"success": False}, {"intervened_steps": 1}])
def test_a_failure_and_a_persons_help_tell_nothing_in_hindsight(change):
    config = make_config("hindsight")
    episode = make_episode(config, 0)
    for name, value in change.items():
        setattr(episode, name, value)
    assert targets(episode, config) is None


@pytest.mark.parametrize("kind", NAMES)
def test_the_estimate_is_learned_from_what_the_tokens_show(kind):
    config = make_config(kind)
    network = ResidualActorCritic(config)
    estimation = Estimation(network, seed=0)
    for batch in range(15):
        episodes = [make_episode(config, 20 * batch + i) for i in range(20)]
        metrics = estimation.learn(episodes)
    assert metrics["estimate_error_mm"] < 15  # of 100 mm that it varies by
    features, wanted = targets(make_episode(config, 999), config)
    given = network.normaliser.project(features)
    estimate = given[:, config.columns("vision").start :][:, :12]
    torch.testing.assert_close(estimate[:, :3], wanted, atol=0.6, rtol=0)
    # The plan stays where the tool is here, so the target is as far from it as from the tool.
    from_plan = (TARGET_SCALE / TCP_SCALE * estimate[:, :3]).clamp(-4, 4)
    torch.testing.assert_close(estimate[:, 3:6], from_plan)


def test_the_actor_never_sees_the_label():
    """Else it would be lost without a simulator."""
    config = make_config("simulator")
    network = ResidualActorCritic(config)
    with torch.no_grad():
        network.actor[-1].weight.fill_(0.1)
    features = torch.randn(4, config.feature_size)
    other = features.clone()
    other[:, config.columns("target_from_tcp")] += 1.0
    assert torch.equal(network(features)[0], network(other)[0])
    assert not torch.equal(network(features)[1], network(other)[1])


def test_a_resumed_estimator_goes_on_to_the_bit():
    config = make_config("simulator")
    batches = [[make_episode(config, 10 * b + i) for i in range(10)] for b in range(4)]
    one, two = ResidualActorCritic(config), ResidualActorCritic(config)
    whole, first, second = Estimation(one, 0), Estimation(two, 0), Estimation(two, 5)
    for batch in batches:
        whole.learn(batch)
    for batch in batches[:2]:
        first.learn(batch)
    second.load_state(first.state())
    for batch in batches[2:]:
        second.learn(batch)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"estimate": "guess"}, "guess"),
        ({"estimate": "simulator", "critic_only": ()}, "target_from_tcp in critic_only"),
        ({"estimate": "hindsight"}, "none of tcp"),
        ({"vision_components": 2}, "vision_components"),
    ],
)
def test_a_configuration_that_cannot_be_estimated_with_is_refused(changes, found):
    settings = {"estimate": "simulator", "critic_only": ("target_from_tcp",)}
    with pytest.raises(ValueError, match=found):
        ResidualConfig.from_names(NAMES["simulator"], 2, token_shape=TOKENS, **settings | changes)
