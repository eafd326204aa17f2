"""Base and residual as a policy of LeRobot: the graph's actions, found and refused as LeRobot's."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.configs import parser
from lerobot.configs.eval import EvalPipelineConfig
from lerobot.configs.policies import PreTrainedConfig
from lerobot.envs.factory import make_env, make_env_pre_post_processors
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.rollout import RolloutConfig
from lerobot.scripts import lerobot_eval, lerobot_rollout
from lerobot.utils.import_utils import register_third_party_plugins
from so101_nexus.lerobot_adapter import SimSOFollower
from so101_nexus.lerobot_adapter.synthetic_calibration import write_synthetic_calibration

from residual_smolvla_ros import export
from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.learning.checkpoint import load_checkpoint, save_checkpoint
from residual_smolvla_ros.learning.schedule import TRAIN, EpisodePlan
from residual_smolvla_ros.lerobot_plugin import PickLiftEnvConfig
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.rewards.composition import make_reward
from residual_smolvla_ros.rewards.term import RobotDescription
from residual_smolvla_ros.robots.units import JOINT_NAMES, lerobot_to_rad
from residual_smolvla_ros.training.cohort import Cohort

TASK = "Lift the red cube"
STEPS, SEED = 24, 1_000_003
PLUGIN = "residual_smolvla_ros.lerobot_plugin"
OF_A_ROBOT = ["state", "base_action", "planned_tcp", "tcp", "chunk_position", "episode_time"]
RESIDUALS = {
    "joints": {"names": OF_A_ROBOT, "action_space": "joint", "hold_steps": 3},
    "gripper, held": {"names": OF_A_ROBOT, "hold_steps": 5},
    "told by the simulator": {
        "names": [*OF_A_ROBOT, "velocity", "target_from_plan", "privileged"],
        "privileged_size": 12,
    },
    "vision tokens": {
        "names": [*OF_A_ROBOT, "vision", "vision_age", "target_from_tcp", "privileged"],
        "privileged_size": 12,
        "critic_only": ("target_from_tcp", "privileged"),
        "estimate": "simulator",
        "vision_cameras": ("wrist",),
        "vision_period_steps": 5,
    },
}


def save(run: Path, base, settings: dict) -> Path:
    """Save a run's checkpoint whose residual has something to say."""
    residual = ResidualConfig.from_names(joints=6, token_shape=base.token_shape, **settings)
    torch.manual_seed(0)
    network = ResidualActorCritic(residual)
    weights = network.state_dict()
    heads = [
        n for n, w in weights.items() if "actor" in n and w.shape[:1] == (residual.residual_size,)
    ]
    assert heads
    for name in heads:
        weights[name] = torch.randn_like(weights[name])
    settings = {"base_checkpoint": str(DEMO_CHECKPOINT)}
    save_checkpoint(run / "checkpoints", residual, weights, {}, {"version": 3}, settings)
    return run


def write(run: Path, output: Path, **more) -> Path:
    given = {"residual_checkpoint": str(run), "output": str(output), "max_steps": str(STEPS)}
    assert export.run(given | more) == 0
    return output


@pytest.fixture(scope="module", params=RESIDUALS.values(), ids=RESIDUALS)
def exported(request, base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plugin")
    return write(save(folder / "run", base, request.param), folder / "exported", simulator="true")


@pytest.fixture(scope="module")
def of_a_robot(base, tmp_path_factory) -> Path:
    """An exported residual that sees what a robot of LeRobot tells."""
    folder = tmp_path_factory.mktemp("robot")
    return write(save(folder / "run", base, RESIDUALS["gripper, held"]), folder / "exported")


@pytest.fixture(scope="module")
def envs():
    made = make_env(PickLiftEnvConfig(episode_length=STEPS), n_envs=1)
    yield made["so101_pick_lift"][0]
    made["so101_pick_lift"][0].close()


def load(folder: Path, **changes):
    """Load as LeRobot's commands do: the configuration first, then policy and processors."""
    overrides = [f"--{name}={value}" for name, value in changes.items()]
    config = PreTrainedConfig.from_pretrained(folder, cli_overrides=["--device=cpu", *overrides])
    config.pretrained_path = folder
    policy = make_policy(config, env_cfg=PickLiftEnvConfig())
    names = {
        "rename_observations_processor": {"rename_map": {}},
        "device_processor": {"device": "cpu"},
    }
    return policy, *make_pre_post_processors(config, str(folder), preprocessor_overrides=names)


def commands_of_the_headless_loop(folder: Path, base, sim) -> np.ndarray:
    """Play the episode as training does, and return what the arm was told (steps, joints), rad."""
    reward = make_reward({"environment": {"weight": 1.0}}, RobotDescription(JOINT_NAMES), ())
    cohort = Cohort(base, TASK, 1, lambda: reward, sim)
    residual = load_checkpoint(folder / "residual")
    cohort.load_weights(residual.config, residual.weights, 3)
    told, arm = [], cohort._sims[0]
    step = arm.step
    arm.step = lambda command: (told.append(command), step(command))
    cohort.play([EpisodePlan(1, TRAIN, 0, SEED, STEPS, use_residual=True, explore=False)])
    cohort.close()
    return np.stack(told)


def test_lerobots_own_rollout_gives_the_headless_loops_actions_to_the_bit(
    exported, envs, base, sim
):
    expected = commands_of_the_headless_loop(exported, base, sim)
    policy, preprocess, postprocess = load(exported, seed=SEED)
    around = make_env_pre_post_processors(PickLiftEnvConfig(), policy.config)
    played = lerobot_eval.rollout(envs, policy, *around, preprocess, postprocess, seeds=[SEED])
    actions = played["action"][0].numpy()
    assert actions.dtype == np.float32
    np.testing.assert_array_equal(lerobot_to_rad(actions), expected)
    alone, preprocess, postprocess = load(exported, seed=SEED, use_residual="false")
    batch = observe(preprocess)
    assert not torch.equal(
        alone.select_action(batch), load(exported, seed=SEED)[0].select_action(batch)
    )


def observe(preprocess, seed: int = 0, rows: int = 1) -> dict:
    """Make what LeRobot's commands give to `select_action`."""
    made = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 255, (2, rows, 3, 96, 96), generator=made).float() / 255
    return preprocess(
        {
            "observation.state": 10 * torch.randn((rows, 6), generator=made),
            "observation.environment_state": torch.randn((rows, 21), generator=made),
            "observation.images.front": images[0],
            "observation.images.wrist": images[1],
            "task": [TASK] * rows,
        }
    )


def test_each_row_of_a_batch_is_an_arm_with_a_seed_of_its_own(of_a_robot):
    policy, preprocess, _ = load(of_a_robot, seed=5)
    both = observe(preprocess, rows=2)
    together = [policy.select_action(both) for _ in range(3)][-1]
    for row in range(2):
        alone, *_ = load(of_a_robot, seed=5 + row)
        one = {key: both[key][row : row + 1] for key in both if key.startswith(("obs", "task"))}
        actions = [alone.select_action(one) for _ in range(3)]
        torch.testing.assert_close(actions[-1], together[row : row + 1], rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="expected 2 rows, found 1"):
        policy.select_action(one)


def test_a_reset_begins_the_next_episode_and_only_a_played_one_counts(of_a_robot):
    policy, preprocess, _ = load(of_a_robot, seed=5)
    batch = observe(preprocess)
    policy.reset()
    policy.reset()
    first = policy.select_action(batch)
    policy.reset()
    second = policy.predict_action_chunk(batch)[:, 0]
    assert not torch.equal(first, second)
    torch.testing.assert_close(
        load(of_a_robot, seed=6)[0].select_action(batch), second, rtol=0, atol=0
    )


def test_a_policy_saved_by_lerobot_acts_the_same(of_a_robot, tmp_path):
    policy, preprocess, _ = load(of_a_robot)
    policy.save_pretrained(tmp_path / "saved")
    batch = observe(preprocess)
    again = type(policy).from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(
        again.select_action(batch), policy.select_action(batch), rtol=0, atol=0
    )


# -- how LeRobot finds it -------------------------------------------------------------------


def test_lerobot_finds_it_by_the_name_of_a_distribution(caplog):
    with caplog.at_level(logging.INFO):
        register_third_party_plugins()
    assert "Imported third-party plugin: lerobot_policy_residual_smolvla" in caplog.text


@pytest.mark.parametrize("kind", [RolloutConfig, EvalPipelineConfig])
def test_its_options_are_lerobots(kind, of_a_robot, monkeypatch):
    words = ["--env.type=so101_pick_lift"]
    if kind is RolloutConfig:
        words = ["--robot.type=so101_follower", "--robot.port=/dev/null", f"--task={TASK}"]
    policy = [f"--policy.path={of_a_robot}", "--policy.seed=7", "--policy.device=cpu"]
    found = f"--policy.discover_packages_path={PLUGIN}"
    monkeypatch.setattr(sys, "argv", ["lerobot", found, *policy, *words])

    def command(config: kind):
        return config

    config = parser.wrap()(command)()
    assert (config.policy.type, config.policy.seed) == ("residual_smolvla", 7)
    assert config.policy.max_steps == STEPS


def test_lerobot_rollout_drives_a_robot_with_it(of_a_robot, tmp_path, monkeypatch):
    write_synthetic_calibration(tmp_path, "sim")
    camera = "{type: sim, source: render, width: 640, height: 480, fps: 30}"
    words = [
        f"--policy.path={of_a_robot}",
        "--policy.device=cpu",
        "--robot.discover_packages_path=so101_nexus.lerobot_adapter",
        "--robot.type=sim_so_follower",
        "--robot.env_id=MuJoCoPickLift-v1",
        "--robot.id=sim",
        f"--robot.calibration_dir={tmp_path}",
        f"--robot.cameras={{front: {camera}, wrist: {camera}}}",
        "--strategy.type=base",
        "--return_to_initial_position=false",
        f"--task={TASK}",
        "--duration=0.2",
    ]
    sent, send = [], SimSOFollower.send_action
    monkeypatch.setattr(
        SimSOFollower,
        "send_action",
        lambda self, action: (sent.append(action), send(self, action))[1],
    )
    monkeypatch.setattr(sys, "argv", ["lerobot-rollout", *words])
    lerobot_rollout.rollout()
    assert sent
    assert list(sent[0]) == [f"{name}.pos" for name in JOINT_NAMES]


# -- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("observation.state", r"expected observation\.state \(rows, 6\), found none"),
        ("observation.images.wrist", r"expected observation\.images\.wrist, found observation"),
    ],
)
def test_an_observation_that_lacks_something_is_refused_by_name(missing, expected, of_a_robot):
    policy, preprocess, _ = load(of_a_robot)
    batch = observe(preprocess)
    del batch[missing]
    with pytest.raises(ValueError, match=expected):
        policy.select_action(batch)


def test_what_a_simulator_alone_tells_is_refused_unless_it_is_told(base, tmp_path):
    run = save(tmp_path / "run", base, RESIDUALS["told by the simulator"])
    with pytest.raises(
        ValueError, match="found privileged, target_from_plan, velocity; for lerobot"
    ):
        write(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    policy, preprocess, _ = load(write(run, tmp_path / "out", simulator="true"))
    batch = observe(preprocess)
    del batch["observation.environment_state"]
    with pytest.raises(ValueError, match="for the features privileged, target_from_plan, velocity"):
        policy.select_action(batch)


def test_what_only_the_critic_sees_no_robot_need_tell(base, tmp_path):
    run = save(tmp_path / "run", base, RESIDUALS["vision tokens"])
    policy, preprocess, _ = load(write(run, tmp_path / "out"))
    told = policy.select_action(observe(preprocess))
    policy, *_ = load(tmp_path / "out")
    batch = observe(preprocess)
    del batch["observation.environment_state"]
    torch.testing.assert_close(policy.select_action(batch), told, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "expected residual_checkpoint:=<folder>, found none"),
        ({"residual_checkpoint": "/nowhere"}, "expected output:=<folder>, found none"),
        ({"residual_checkpoint": "/nowhere", "output": "new"}, "found no such folder"),
        ({"residual_checkpoint": "run", "output": "run"}, "expected a new or empty folder"),
        ({"residual_checkpoint": "run", "output": "new"}, "max_steps: expected the time limit"),
        ({"residual_checkpoint": "run", "output": "new", "max_steps": "9", "base_checkpoint": "no"},
         r"base checkpoint .*/no: expected a folder with config\.json"),
    ],
)  # fmt: skip
def test_bad_arguments_of_export_end_in_one_line_and_write_nothing(
    given, expected, base, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "run", base, RESIDUALS["joints"])
    with pytest.raises(ValueError, match=expected) as error:
        export.run(given)
    assert len(str(error.value).splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_lerobot_train_is_refused(of_a_robot):
    policy, preprocess, _ = load(of_a_robot)
    for refuse in (policy.get_optim_params, lambda: policy.forward(observe(preprocess))):
        with pytest.raises(ValueError, match="residual-smolvla train or finetune trains residuals"):
            refuse()
