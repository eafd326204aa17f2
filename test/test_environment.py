"""The Gymnasium environments: one problem, alone and side by side, as the documentation says."""

import re
import subprocess
import sys
from pathlib import Path

import graph
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from residual_smolvla_ros.errors import CheckpointError, ConfigError
from residual_smolvla_ros.learning.schedule import HELD_OUT_SEED, TRAINING_SEED
from residual_smolvla_ros.training.environment import ENV_ID, ResidualEnv, ResidualVectorEnv

TEXT = (Path(__file__).parents[1] / "docs" / "environment.md").read_text()
MODULE = "residual_smolvla_ros.training.environment"
ARMS = 3
# Fifteen control steps, of which the last decision has three of its four.
EPISODE = {"episode": {"max_steps": 15}, "learner": {"hold_steps": 4}}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return graph.write_config(tmp_path_factory.mktemp("config"), **EPISODE)


@pytest.fixture(scope="module")
def env(sim, config):
    made = ResidualEnv(render_mode="rgb_array", config=config, like=sim)
    yield made
    made.close()


@pytest.fixture(scope="module")
def envs(sim, config):
    made = ResidualVectorEnv(ARMS, config=config, like=sim)
    yield made
    made.close()


def residuals(count: int, size: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, size)).astype(np.float32)


def play(env: ResidualEnv, count: int, **reset) -> list:
    """Return what an episode's first decisions gave."""
    observation, info = env.reset(**reset)
    found = [(observation, info["scene"])]
    for residual in residuals(count):
        observation, *rest = env.step(residual)
        found.append((observation, *rest))
    return found


# Units of residual are the config's: the space is not that of -1 to 1 which Gymnasium recommends.
@pytest.mark.filterwarnings("ignore:.*(symmetric and normalized space|infinity)")
def test_gymnasiums_own_checks_pass(env):
    check_env(env, skip_render_check=True, skip_close_check=True)
    assert env.reset()[0].dtype == np.float32
    assert env.render().std() > 5


def test_the_same_scene_and_residuals_give_the_same_bits_whatever_was_played_before(env):
    first = play(env, 4, seed=3)
    play(env, 2, options={"scene": 7})
    second = play(env, 4, seed=3)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1:] == other[1:]
    assert first[0][1] == 4 * TRAINING_SEED


def test_a_given_scene_does_not_use_up_one_of_the_sequence(env, envs):
    scenes = [env.reset(seed=0)[1]["scene"]]
    scenes += [env.reset(options={"scene": HELD_OUT_SEED})[1]["scene"]]
    scenes += [env.reset()[1]["scene"]]
    assert scenes == [TRAINING_SEED, HELD_OUT_SEED, TRAINING_SEED + 1]
    envs.reset(seed=0)
    given = envs.reset(options={"scene": HELD_OUT_SEED})[1]["scene"]
    np.testing.assert_array_equal(given, HELD_OUT_SEED + np.arange(ARMS))
    np.testing.assert_array_equal(envs.reset()[1]["scene"], TRAINING_SEED + ARMS + np.arange(ARMS))


def test_arms_side_by_side_have_the_problem_of_one_arm(env, envs):
    """Plans computed in batches differ in their last bits, which the simulation passes on."""
    count = 4
    observations = [envs.reset(seed=5)[0]]
    rewards, truncated, infos = [], [], []
    for residual in residuals(count):
        found = envs.step(np.tile(residual, (ARMS, 1)))
        observations.append(found[0])
        rewards.append(found[1])
        truncated.append(found[3])
        infos.append(found[4])
    final = infos[-1]["final_obs"]
    for arm in range(ARMS):
        scene = 6 * TRAINING_SEED + arm
        alone = play(env, count, options={"scene": scene})
        np.testing.assert_allclose(alone[0][0], observations[0][arm], atol=1e-3)
        for step, (observation, reward, _, cut, info) in enumerate(alone[1:]):
            there = final[arm] if cut else observations[step + 1][arm]
            np.testing.assert_allclose(observation, there, atol=1e-2)
            assert reward == pytest.approx(rewards[step][arm], abs=1e-3)
            assert cut == truncated[step][arm] == (step == count - 1)
            assert info["scene"] == infos[step]["scene"][arm] == scene
            assert info["steps"] == infos[step]["steps"][arm] == (3 if cut else 4)
    # The episodes that began in the same step.
    after = envs.step(np.zeros((ARMS, 5)))[-1]["scene"]
    np.testing.assert_array_equal(after, 6 * TRAINING_SEED + ARMS + np.arange(ARMS))


def test_an_observation_stays_as_it_was_when_the_next_one_comes(envs):
    before, _ = envs.reset(seed=0)
    kept = before.copy()
    after = envs.step(np.ones((ARMS, 5)))[0]
    np.testing.assert_array_equal(before, kept)
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("bad", [np.full(5, np.nan), np.zeros(4), np.zeros((1, 5))])
def test_a_residual_that_cannot_be_carried_out_is_refused(env, bad):
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"residuals: expected finite numbers \(1, 5\), found"):
        env.step(bad)


def test_a_step_without_a_reset_before_it_is_refused(env):
    play(env, 4, seed=0)
    with pytest.raises(gym.error.ResetNeeded, match="expected a reset"):
        env.step(np.zeros(5))


@pytest.mark.parametrize("options", [{"scene": -1}, {"scene": "first"}, {"seed": 3}])
def test_unknown_options_are_refused(env, options):
    with pytest.raises(ValueError, match=r"expected .+, found"):
        env.reset(options=options)


@pytest.mark.parametrize(
    ("node", "values", "named"),
    [
        ("learner", {"hold_step": 4}, "hold_step"),
        ("learner", {"hold_steps": "four"}, "hold_steps"),
        ("learner", {"features": ["smell"]}, "smell"),
        ("episode", {"max_stepps": 15}, "max_stepps"),
        ("reward", {"terms": {"grace": {"weight": 1.0}}}, "grace"),
    ],
)
def test_a_wrong_config_is_refused_with_one_line(sim, tmp_path, node, values, named):
    file = graph.write_config(tmp_path, **{node: values})
    with pytest.raises(ValueError, match=r"expected .+, found") as caught:
        ResidualEnv(config=file, like=sim)
    assert named in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_files_that_are_not_there_are_refused(sim, tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        ResidualEnv(config=tmp_path / "none.yaml", like=sim)
    with pytest.raises(CheckpointError, match="nowhere"):
        ResidualEnv(base_checkpoint=tmp_path / "nowhere", like=sim)


def test_what_the_documentation_shows_runs(capsys):
    shown, names = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL), {}
    for block in shown:
        exec(block, names)
    printed = capsys.readouterr().out
    assert f"scene {TRAINING_SEED}: success" in printed
    assert f"scenes [{TRAINING_SEED}" in printed
    assert f"{MODULE}:{ENV_ID}" in TEXT


def test_registering_needs_no_torch():
    code = f"import sys, {MODULE}; assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
