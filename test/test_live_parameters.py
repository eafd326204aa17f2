"""What is changed while a node runs counts from the moment it says, and else is refused."""

import dataclasses
import json
import threading
from dataclasses import dataclass

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from test_reward_node import label, play

from residual_smolvla_ros import pipeline
from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.checkpoint import load_checkpoint
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.learning.run import LearnerRun
from residual_smolvla_ros.learning.td3 import TD3Config
from residual_smolvla_ros.learning.td3_learner import TD3Learner
from residual_smolvla_ros.nodes.call import set_parameter
from residual_smolvla_ros.nodes.learner import LearnerNode
from residual_smolvla_ros.nodes.reward import RewardNode
from residual_smolvla_ros.records import REWARD, unpack
from residual_smolvla_ros.rewards.term import RewardTerm
from residual_smolvla_ros.robots.units import JOINT_NAMES

DOMAIN = 105
# Declared by rclpy for each node.
OF_ROS = {"use_sim_time", "start_type_description_service"}
TD3 = TD3Config(batch_size=8, critics=2, replay_size=60, learning_starts=8, actor_starts=8)
LEARNER = {
    "features": ["episode_time"],
    "action_space": "joint",
    "joint_names": [JOINT_NAMES[0]],
}


@dataclass(frozen=True, kw_only=True)
class Helps(RewardTerm):
    """A user's term: nothing but settings."""

    value: float = 1.0
    camera: str = ""

    @property
    def cameras(self):
        """The camera, if there is one."""
        return (self.camera,) if self.camera else ()

    def __call__(self, transition):
        """Return the setting."""
        return self.value


TERMS = {"success": {"weight": 1}, "help": {"weight": 0.0, "type": f"{__name__}:Helps"}}


# -- learner --------------------------------------------------------------------------------


def test_a_change_counts_from_the_next_update_on(config, make_episode):
    """Not from within a batch: its episodes were all played by one policy."""
    learner = Learner(config, PPOConfig(), episodes_per_update=2, warmup_updates=0)
    learner.add_episode(make_episode(1))
    learner.change({"log_std_max": -2.0, "action_scale": 0.1, "epochs": 1})
    assert learner.residual.action_scale == 0.2
    assert learner.progress() == Learner(config, PPOConfig(), 2, 0).progress()
    metrics = learner.add_episode(make_episode(2))
    assert (learner.residual.action_scale, metrics["epochs"]) == (0.1, 1.0)
    assert (learner.weights()["log_std"] == -2.0).all()
    told = {"action_scale": 0.1, "epochs": 1, "log_std_max": -2.0}
    assert learner.progress()["settings"] == told
    assert {n: metrics[f"setting/{n}"] for n in told} == told


def test_without_a_change_no_weight_and_no_word_differs(config, make_episode):
    learners = [Learner(config, PPOConfig(), 1, 0) for _ in range(2)]
    learners[1].change({})
    found = [learner.add_episode(make_episode(1)) for learner in learners]
    assert found[0] == found[1]
    assert "settings" not in learners[1].progress()


@pytest.mark.parametrize(
    ("settings", "values", "message"),
    [
        ({}, {"clip_range": 0.0}, "clip_range: expected > 0, found 0.0"),
        ({}, {"log_std_min": 1.0, "log_std_max": 0.0}, "log_std_min: expected at most log_std_max"),
        (
            {"learning_rate_schedule": "adaptive"},
            {"actor_learning_rate": 1e-3},
            "actor_learning_rate: expected no change, since learning_rate_schedule adaptive",
        ),
    ],
)
def test_a_change_that_is_refused_changes_nothing(config, settings, values, message):
    learner = Learner(config, PPOConfig(**settings), 1, 0)
    with pytest.raises(ConfigError, match=message):
        learner.change({"epochs": 1} | values)
    learner._take_changes()
    assert learner.config == PPOConfig(**settings)


def test_td3_takes_rates_and_exploration_but_keeps_the_scale_of_its_replay(config, make_episode):
    squashed = dataclasses.replace(config, squash=True)
    learner = TD3Learner(squashed, TD3)
    with pytest.raises(ConfigError, match=r"action_scale: expected 0\.2, .*replay"):
        learner.change({"action_scale": 0.1})
    learner.change({"log_std_max": -3.0, "actor_learning_rate": 0.01})
    learner.add_episode(make_episode(1))
    assert (learner.weights()["log_std"] == -3.0).all()
    assert learner.algorithm._actor_optimiser.param_groups[0]["lr"] == 0.01
    learner.change({"log_std_max": 2.0})
    learner.add_episode(make_episode(2))
    assert (learner.weights()["log_std"] == config.log_std_init).all()


def test_a_rollback_brings_back_the_scale_that_its_weights_were_trained_at(
    config, make_episode, tmp_path
):
    run = LearnerRun(tmp_path, Learner(config, PPOConfig(), 1, 0), {}, resume=False)
    run.learner.change({"action_scale": 0.5})
    run.keep(run.learner.add_episode(make_episode(1)))
    assert load_checkpoint(tmp_path).config.action_scale == 0.5
    run.judge(is_good=False)
    assert run.learner.residual.action_scale == 0.2
    assert run.learner.settings == {"action_scale": 0.2}
    run.close()


def test_a_resumed_run_says_that_it_does_not_go_on_with_what_was_changed(
    config, make_episode, tmp_path, caplog
):
    run = LearnerRun(tmp_path, Learner(config, PPOConfig(), 1, 0), {}, resume=False)
    run.learner.change({"clip_range": 0.1})
    run.keep(run.learner.add_episode(make_episode(1)))
    run.close()
    resumed = LearnerRun(tmp_path, Learner(config, PPOConfig(), 1, 0), {}, resume=True)
    resumed.close()
    assert resumed.learner.config.clip_range == 0.2
    assert "was made with clip_range 0.1, set while it ran" in caplog.text


# -- nodes ----------------------------------------------------------------------------------


@pytest.fixture
def make_node(tmp_path, monkeypatch):
    """A maker of a node in this process from its parameters."""
    for name, value in pipeline.environment().items():
        monkeypatch.setenv(name, value)
    made = []

    def make(kind, **parameters):
        file = tmp_path / "node.yaml"
        file.write_text(json.dumps({"/**": {"ros__parameters": parameters}}))
        rclpy.init(args=["--ros-args", "--params-file", str(file)], domain_id=DOMAIN)
        made.append(kind())
        return made[-1]

    yield make
    for node in made:
        node.close()
        node.destroy_node()
    rclpy.try_shutdown()


@pytest.fixture
def learner(make_node, tmp_path):
    return make_node(LearnerNode, output=str(tmp_path / "run"), **LEARNER)


@pytest.fixture
def reward(make_node, monkeypatch):
    node = make_node(RewardNode, environment=False, executed_commands=True, terms=TERMS)
    node.sent = []
    monkeypatch.setattr(
        node._rewards, "publish", lambda m: node.sent.append(unpack(REWARD, bytes(m.data)))
    )
    return node


def ask(node, **values) -> str:
    """Set parameters as the service does; return why not, or ""."""
    parameters = [Parameter(name.replace("__", "."), value=v) for name, v in values.items()]
    result = node.set_parameters_atomically(parameters)
    assert result.successful == (not result.reason)
    return result.reason


@pytest.mark.parametrize("kind", ["learner", "reward"])
def test_every_parameter_is_described_and_is_live_or_read_only(kind, request):
    node = request.getfixturevalue(kind)
    names = set(node.list_parameters([], 0).names) - OF_ROS
    assert names == node._abouts.keys()
    for name in names:
        descriptor = node.describe_parameter(name)
        assert descriptor.description, name
        assert descriptor.read_only != ("takes effect" in descriptor.additional_constraints), name


def test_what_is_described_says_its_range(learner):
    found = learner.describe_parameter("gae_lambda").floating_point_range[0]
    assert (found.from_value, found.to_value) == (0.0, 1.0)
    assert learner.describe_parameter("minibatch_size").integer_range[0].to_value == 2**63 - 1
    assert learner.describe_parameter("algorithm").additional_constraints == "ppo or td3"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"seed": 3}, "seed: expected no change while the node runs, found one: it is read at"),
        ({"clip_range": -1.0}, "clip_range: expected > 0, found -1.0"),
        ({"entropy_coefficient": float("nan")}, "entropy_coefficient: expected -1 to 1, found nan"),
        ({"clip_range": "wide"}, "Wrong parameter type, expected 'Type.DOUBLE' got 'Type.STRING'"),
        ({"epochs": 1, "log_std_max": -19.0, "log_std_min": 1.0}, "log_std_min: expected at most"),
    ],
)
def test_a_node_refuses_with_the_reason_and_keeps_what_it_had(learner, values, reason):
    before = {name: learner.get_parameter(name).value for name in values}
    assert reason in ask(learner, **values)
    assert {name: learner.get_parameter(name).value for name in values} == before
    assert learner._learner._asked == {}


def test_the_learner_takes_what_its_node_is_told(learner):
    assert ask(learner, clip_range=0.1, action_scale=0.5) == ""
    assert learner._learner._asked == {"clip_range": 0.1, "action_scale": 0.5}


def test_an_episode_is_rewarded_by_one_set_of_weights(reward):
    """And its late label by the same, though the next one has begun with others."""
    play(reward, 2)
    assert ask(reward, terms__success__weight=2.5) == ""
    play(reward, 4)
    label(reward, "success", last_stamp=1010)
    assert reward.sent[-1]["reward"] == 1.0
    assert {r.metadata.get("settings") for r in reward.sent} == {None}
    assert reward.status()[2]["weight/success"] == "1"
    play(reward, 3, episode=2)
    label(reward, "success", last_stamp=2010)
    assert reward.sent[-1]["reward"] == 2.5
    assert json.loads(reward.sent[-1].metadata["settings"]) == {"terms.success.weight": 2.5}
    assert reward.status()[2]["weight/success"] == "2.5"
    label(reward, "success", last_stamp=1010)
    assert reward.sent[-1]["reward"] == 1.0


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"terms__help__value": "all"}, "terms.help: expected the settings of Helps"),
        (
            {"terms__help__camera": "wrist"},
            "expected the cameras of the start, [], found ['wrist']",
        ),
        ({"terms__success__weight": "much"}, "terms.success: weight: expected a finite number"),
        ({"terms__success__weight": float("nan")}, "weight: expected a finite number, found nan"),
        ({"terms__success__weight": None}, "terms.success.weight: expected a value, found none"),
    ],
)
def test_a_term_that_does_not_fit_is_refused_with_the_reason(reward, values, reason):
    assert reason in ask(reward, **values)
    assert reward._judge._changes == []


def test_the_command_sets_a_parameter_and_tells_a_refusal(learner, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    executor = SingleThreadedExecutor()
    executor.add_node(learner)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    try:
        assert set_parameter("/learner", "clip_range", "0.1") == (True, "clip_range: 0.1")
        assert learner.get_parameter("clip_range").value == 0.1
        good, reason = set_parameter("learner", "seed", "1")
        assert not good
        assert reason.startswith("seed: expected no change while the node runs")
    finally:
        executor.shutdown()
        thread.join()
