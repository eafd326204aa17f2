"""The residual's networks before and beside training."""

import pytest
import torch

from residual_smolvla_ros.policy.actor_critic import (
    NORMALISED_CLIP,
    FeatureNormaliser,
    ResidualActorCritic,
    TokenProjection,
)
from residual_smolvla_ros.policy.features import ResidualConfig


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def same_bits(a: ResidualActorCritic, b: ResidualActorCritic) -> bool:
    other = b.state_dict()
    return all(torch.equal(value, other[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_an_untrained_residual_is_exactly_zero(config, scale):
    network = ResidualActorCritic(config)
    features = scale * normal(32, config.feature_size)
    mean, value = network(features)
    assert mean.shape == (32, config.residual_size)
    assert torch.count_nonzero(mean) == 0
    assert value.shape == (32,)
    assert torch.equal(value, network.value(features))


def test_a_seed_gives_the_same_weights_and_another_seed_others(config):
    assert same_bits(ResidualActorCritic(config, seed=3), ResidualActorCritic(config, seed=3))
    assert not same_bits(ResidualActorCritic(config, seed=3), ResidualActorCritic(config, seed=4))


def test_making_a_network_leaves_the_global_generator_untouched(config):
    before = torch.get_rng_state()
    ResidualActorCritic(config, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_deviation_starts_where_the_configuration_says(config):
    std = ResidualActorCritic(config).log_std.exp()
    assert std.tolist() == pytest.approx([2.718281828**-1] * config.residual_size)


def test_fitted_features_have_mean_0_and_deviation_1():
    features = normal(500, 3) * torch.tensor([0.1, 1.0, 50.0])
    features += torch.tensor([5.0, 0.0, -100.0])
    normaliser = FeatureNormaliser(3)
    normaliser.fit(features)
    scaled = normaliser(features)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(0), torch.ones(3), atol=0.01, rtol=0)


def test_a_feature_that_never_varied_is_not_blown_up():
    normaliser = FeatureNormaliser(1)
    normaliser.fit(torch.full((10, 1), 7.0))
    assert normaliser(torch.tensor([[7.0]])).item() == 0.0
    assert abs(normaliser(torch.tensor([[7.001]])).item()) < 0.2


def test_a_feature_far_out_is_clipped():
    scaled = FeatureNormaliser(2)(torch.tensor([[1e9, -1e9]]))
    assert scaled.tolist() == [[NORMALISED_CLIP, -NORMALISED_CLIP]]


def test_statistics_of_a_single_row_are_finite():
    normaliser = FeatureNormaliser(2)
    normaliser.fit(torch.ones(1, 2))
    assert normaliser(torch.ones(1, 2)).isfinite().all()


def test_feature_statistics_travel_with_the_weights(config):
    trained, loaded = ResidualActorCritic(config), ResidualActorCritic(config)
    trained.normaliser.fit(normal(10, config.feature_size))
    loaded.load_state_dict(trained.state_dict())
    features = torch.ones(1, config.feature_size)
    assert torch.equal(loaded.value(features), trained.value(features))


# -- what only the critic sees --------------------------------------------------------------


def test_what_the_critic_alone_sees_changes_the_value_and_never_the_residual():
    names = ["state", "privileged", "episode_time"]
    config = ResidualConfig.from_names(names, 6, 4, critic_only=("privileged",), hidden_sizes=(8,))
    network = ResidualActorCritic(config)
    torch.nn.init.orthogonal_(network.actor[-1].weight)
    features, others = normal(5, 11), normal(5, 11)
    others[:, 6:10] += 1.0
    mean, value = network(features)
    other_mean, other_value = network(others)
    assert torch.count_nonzero(mean) == mean.numel()
    assert torch.equal(mean, other_mean)
    assert (value != other_value).all()
    others[:, 10] += 1.0
    assert not torch.equal(network(others)[0], mean)


def test_what_only_the_estimator_learns_from_changes_neither_residual_nor_value():
    hidden = {"critic_only": ("privileged",), "label_only": ("privileged",)}
    config = ResidualConfig.from_names(["state", "privileged"], 6, 4, hidden_sizes=(8,), **hidden)
    network = ResidualActorCritic(ResidualConfig.from_json(config.to_json()))
    torch.nn.init.orthogonal_(network.actor[-1].weight)
    features = normal(5, 10)
    others = torch.cat([features[:, :6], features[:, 6:] + 1.0], dim=1)
    for found, other in zip(network(features), network(others), strict=True):
        assert torch.equal(found, other)


# -- principal components of the vision tokens ----------------------------------------------


@pytest.mark.parametrize("rows", [8, 60])
def test_components_are_uncorrelated_and_of_variance_1_however_many_rows(rows):
    features = normal(rows, 2 + 20) * torch.logspace(1, -1, 22) + 3.0
    projection = TokenProjection(slice(1, 21), components=5)
    projection.fit(features)
    projected = projection(features)
    assert torch.equal(projected[:, [0, -1]], features[:, [0, -1]])
    components = projected[:, 1:-1]
    assert components.shape == (rows, 5)
    torch.testing.assert_close(components.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    covariance = components.T @ components / rows
    torch.testing.assert_close(covariance, torch.eye(5), atol=1e-3, rtol=0)


def test_the_components_are_those_of_the_largest_variance():
    features = normal(200, 4) * torch.tensor([0.1, 5.0, 0.1, 2.0])
    projection = TokenProjection(slice(0, 4), components=2)
    projection.fit(features)
    assert projection.axes.abs().argmax(dim=0).tolist() == [1, 3]


def test_more_components_than_the_batch_has_directions_are_zero():
    features = normal(50, 2) @ normal(2, 6)
    projection = TokenProjection(slice(0, 6), components=4)
    projection.fit(features)
    assert not projection.axes[:, 2:].any()
    assert projection(1e3 * normal(3, 6))[:, 2:].abs().max() == 0
    projection.fit(torch.ones(4, 6))  # images that never changed
    assert not projection.axes.any()


def test_components_are_fitted_once_and_travel_with_the_weights():
    names, shape = ["state", "vision", "chunk_position"], (1, 4, 8)
    config = ResidualConfig.from_names(names, 6, token_shape=shape, vision_components=3)
    trained, loaded = ResidualActorCritic(config), ResidualActorCritic(config)
    assert trained.critic[0].in_features == 6 + 3 + 1
    assert not trained.normaliser.is_fitted
    trained.normaliser.fit(normal(30, config.feature_size))
    assert trained.normaliser.is_fitted
    loaded.load_state_dict(trained.state_dict())
    assert loaded.normaliser.is_fitted
    features = normal(2, config.feature_size)
    assert torch.equal(loaded.value(features), trained.value(features))
