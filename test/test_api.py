"""The residual policy in one's own loop: the same objects, and the same bits, as everywhere."""

import subprocess
import sys

import graph
import numpy as np
import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

from residual_smolvla_ros import (
    ResidualRLTrainer,
    ResidualSmolVLAPolicy,
    SimpleRewardFunction,
    SimulatedRobot,
)
from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.learning.schedule import TRAIN, EpisodePlan
from residual_smolvla_ros.records import FAILURE
from residual_smolvla_ros.training.settings import CohortMaker, learner_from

TERMS = {"environment": {"weight": 1.0}, "success": {"weight": 1.0}}
TASK = "Lift the red cube"
STEPS, SEEDS = 12, (3, 4, 5)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """One update in which only the critic learns, and one of both."""
    learner = graph.SETTINGS["/**/learner"] | {"episodes_per_update": 1}
    return graph.write_config(tmp_path_factory.mktemp("config"), learner=learner)


@pytest.fixture(scope="module")
def robot():
    robot = SimulatedRobot()
    yield robot
    robot.disconnect()


@pytest.fixture
def policy(config):
    return ResidualSmolVLAPolicy(DEMO_CHECKPOINT, config=config, max_steps=STEPS)


def test_a_loop_of_ones_own_acts_and_learns_as_training_does_to_the_bit(policy, robot, config):
    trainer, reward = ResidualRLTrainer(policy), SimpleRewardFunction(TERMS)
    ours = []
    for seed in SEEDS:
        robot.reset(seed)
        policy.reset(seed)
        trainer.reset_rollout_storage()
        reward.reset()
        observation = robot.get_observation()
        for _ in range(STEPS):
            action = policy.predict_action(observation, TASK)
            robot.send_action(action)
            observation = robot.get_observation()
            earned = reward.compute_reward(observation, action, step=policy.last_step)
            trainer.record_step(earned)
        ours.append(trainer.episode)
        trainer.compute_gae(final_observation=observation)
        assert trainer.episode.final_features is None  # it may go on
        trainer.update_policy(final_observation=observation)

    theirs, learner = play_in_training(config)
    for here, there in zip(ours, theirs, strict=True):
        for name in ("features", "residuals", "log_probs", "values", "rewards"):
            assert np.array_equal(getattr(here, name), getattr(there, name)), name
    weights = trainer.learner.weights()
    assert trainer.learner.counters == learner.counters
    assert all(torch.equal(weights[name], other) for name, other in learner.weights().items())


def play_in_training(config):
    """Return the episodes of `residual-smolvla train` with the same scenes, and its learner."""
    learner = learner_from(config, DEMO_CHECKPOINT, seed=0, total_steps=0)
    cohort = CohortMaker(config, DEMO_CHECKPOINT, "cpu", TASK)(1)
    episodes = []
    for number, seed in enumerate(SEEDS):
        cohort.load_weights(learner.residual, learner.weights(), learner.counters.version)
        acts = not learner.warms_up  # as the schedule has it
        plan = EpisodePlan(number, TRAIN, number, seed, STEPS, use_residual=acts, explore=acts)
        episodes += [played.episode for played in cohort.play([plan])]
        learner.add_episode(episodes[-1])
    cohort.close()
    return episodes, learner


def test_advantages_and_returns_are_of_the_recorded_values(policy, robot):
    trainer, reward = ResidualRLTrainer(policy), SimpleRewardFunction(TERMS)
    observation = start(policy, robot)
    for _ in range(3):
        action = policy.predict_action(observation)
        robot.send_action(action)
        observation = robot.get_observation()
        trainer.record_step(reward.compute_reward(observation, action))
    advantages, returns = trainer.compute_gae()
    values = np.array(trainer.episode.values, dtype=np.float32)
    assert np.allclose(advantages + values, returns)
    assert np.isfinite(trainer.episode.log_probs).all()
    with pytest.raises(RuntimeError, match="found none new"):
        trainer.record_step(0.0)


def test_a_persons_failure_reaches_its_reward_term(policy, robot):
    reward = SimpleRewardFunction({"failure": {"weight": -2.0}})
    observation = start(policy, robot)
    action = policy.predict_action(observation)
    assert reward.compute_reward(observation, action) == 0.0
    assert reward.compute_reward(observation, action, label=FAILURE) == -2.0


def test_saved_weights_are_loaded_again_and_act_alike(policy, robot, config, tmp_path):
    with torch.no_grad():
        policy.learner.network.actor[-1].weight.fill_(0.1)
    policy.use_learner(policy.learner)
    folder = policy.save_residual_weights(tmp_path)
    other = ResidualSmolVLAPolicy(DEMO_CHECKPOINT, config=config, max_steps=STEPS)
    observation = start(policy, robot)
    base = policy.predict_action(observation, use_residual=False)
    policy.reset(seed=0)
    untrained = other.predict_action(observation)
    other.load_residual_weights(folder)
    other.reset(seed=0)
    assert untrained == base
    assert other.predict_action(observation) == policy.predict_action(observation) != base


def start(policy, robot) -> dict:
    robot.reset(seed=0)
    policy.reset(seed=0)
    return robot.get_observation()


def test_the_features_of_an_observation_change_nothing(policy, robot):
    observation = start(policy, robot)
    features = policy.extract_state_features(observation)
    policy.predict_action(observation)
    assert np.array_equal(features, policy.last_step.features)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gripper.pos": None}, "expected gripper.pos, found shoulder_pan.pos"),
        ({"gripper.pos": np.nan}, "expected finite joint positions"),
        ({"wrist": None}, r"expected wrist \(H, W, 3\) uint8, found none"),
        ({"wrist": np.zeros((3, 96, 96))}, "expected wrist .* found float64"),
    ],
)
def test_an_observation_that_lacks_something_is_refused(policy, robot, changes, message):
    observation = start(policy, robot) | changes
    observation = {name: value for name, value in observation.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        policy.predict_action(observation)


def test_what_cannot_work_is_refused_in_one_line(policy, tmp_path):
    with pytest.raises(ValueError, match=r"with residual\.safetensors, found a pickle"):
        policy.load_residual_weights(tmp_path / "residual_checkpoint.pt")
    with pytest.raises(ValueError, match="device: expected the policy's, cpu, found cuda"):
        ResidualRLTrainer(policy, device="cuda")
    with pytest.raises(ValueError, match="rollout: expected at least one step, found none"):
        ResidualRLTrainer(policy).update_policy()
    with pytest.raises(ValueError, match=r"base_policy: expected a checkpoint's folder, .* object"):
        ResidualSmolVLAPolicy(object())
    with pytest.raises(ValueError, match="config: expected a parameter file"):
        ResidualSmolVLAPolicy(DEMO_CHECKPOINT, config=tmp_path / "none.yaml")


def test_a_policy_that_lerobot_has_loaded_tells_its_folder(policy, robot, config, monkeypatch):
    monkeypatch.chdir(DEMO_CHECKPOINT)  # where its config.json looks for the VLM
    given = PreTrainedConfig.from_pretrained(DEMO_CHECKPOINT)
    given.pretrained_path = DEMO_CHECKPOINT
    base = SmolVLAPolicy.from_pretrained(DEMO_CHECKPOINT, config=given)
    other = ResidualSmolVLAPolicy(base, config=config, max_steps=STEPS)
    observation = start(policy, robot)
    other.reset(seed=0)
    assert other.predict_action(observation) == policy.predict_action(observation)


def test_importing_the_package_imports_neither_torch_nor_lerobot():
    """The commands' own argument checks would take seconds."""
    code = "import residual_smolvla_ros, sys; print({'torch', 'lerobot'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_an_arm_with_other_joints_is_corrected_joint_by_joint(tmp_path, robot):
    names = [f"joint_{number}" for number in range(6)]
    told = robot.get_observation()
    joints = [value for name, value in told.items() if name.endswith(".pos")]
    observation = told | {f"{name}.pos": value for name, value in zip(names, joints, strict=True)}
    learner = {"features": ["state", "base_action"], "action_space": "joint"}
    config = graph.write_config(tmp_path, learner=learner)
    policy = ResidualSmolVLAPolicy(DEMO_CHECKPOINT, config=config, joint_names=names)
    assert list(policy.predict_action(observation)) == [f"{name}.pos" for name in names]
    config = graph.write_config(tmp_path, learner=learner | {"action_space": "gripper"})
    with pytest.raises(ValueError, match="expected kinematics of the robot, found none"):
        ResidualSmolVLAPolicy(DEMO_CHECKPOINT, config=config, joint_names=names)
