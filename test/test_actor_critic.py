"""The residual's networks before and beside training."""

import pytest
import torch

from residual_smolvla_ros.policy.actor_critic import (
    NORMALISED_CLIP,
    FeatureNormaliser,
    ResidualActorCritic,
)


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
