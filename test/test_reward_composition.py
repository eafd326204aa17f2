"""The reward is the weighted sum of its terms; a term that cannot tell is named, not guessed."""

import array
import math
import re
from dataclasses import dataclass

import numpy as np
import pytest

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.records import ENVIRONMENT_STATE, FAILURE, SUCCESS, pack, unpack
from residual_smolvla_ros.rewards.composition import make_reward
from residual_smolvla_ros.rewards.registry import BUILT_IN
from residual_smolvla_ros.rewards.term import RewardTerm, RobotDescription
from residual_smolvla_ros.rewards.transition import Transition
from residual_smolvla_ros.robots.units import JOINT_NAMES

ROBOT = RobotDescription(
    ("pan", "gripper"), lower=np.array([-1.0, 0.0]), upper=np.array([1.0, 1.5])
)
CAMERAS = ("front", "wrist")
DEMO = {"environment": {"weight": 1.0}, "success": {"weight": 1.0}}


@dataclass(frozen=True, kw_only=True)
class Says(RewardTerm):
    """A user's term that says what it is told to."""

    value: float = 1.0

    def __call__(self, transition):
        """Return the setting, or whatever the command holds."""
        return self.value if transition.command is None else transition.command[0]


@dataclass(frozen=True)
class Moon(RewardTerm):
    """A term that needs what no robot has."""

    needs = frozenset({"moon"})

    def __call__(self, transition):
        """Return nothing of use."""
        return 0.0


class NoDataclass(RewardTerm):
    """A term whose settings nobody declared."""

    def __call__(self, transition):
        """Return nothing of use."""
        return 0.0


SAYS = {"type": f"{__name__}:Says"}


def environment(reward: float, success: bool = False):
    tensors = {"privileged": [0.0], "target": [0.0, 0.0, 0.0], "reward": reward}
    stamps = {"stamp": 2, "previous_stamp": 1}
    return unpack(ENVIRONMENT_STATE, pack(ENVIRONMENT_STATE, tensors, **stamps, success=success))


def step(**fields) -> Transition:
    return Transition(stamp=1, next_stamp=2, tick=0, **fields)


def reward_of(terms: dict):
    return make_reward(terms, ROBOT, CAMERAS)


def test_shares_are_weighted_in_the_order_of_the_terms():
    reward = reward_of(
        {"b": SAYS | {"weight": -2, "value": 3}, "time": {"weight": 0.5}, "a": SAYS | {"weight": 1}}
    )
    shares = reward(step())
    assert shares.names == reward.names == ("b", "time", "a")
    assert shares.values.dtype == np.float32
    assert shares.values.tolist() == [-6.0, 0.5, 1.0]
    assert (shares.total, shares.missing) == (-4.5, ())


def test_the_demos_reward_is_the_environments_and_a_bonus_to_the_bit():
    """As before there were terms: float(state reward) + 1.0 * success, stored as float32."""
    reward = reward_of(DEMO)
    for value in np.random.default_rng(0).normal(size=200).astype(np.float32):
        for success in (False, True):
            state = environment(value, success)
            shares = reward(step(environment=state, success=success))
            assert shares.total == float(state["reward"]) + 1.0 * success


def test_what_the_terms_read_is_put_together():
    image = {"weight": 1.0, "hsv_lower": [0, 0, 0], "hsv_upper": [9, 9, 9]}
    reward = make_reward(
        {
            "wrist": image | {"type": "image_distance", "camera": "wrist"},
            "front": image | {"type": "image_distance", "camera": "front"},
            "again": image | {"type": "image_distance", "camera": "wrist"},
            "cube": {"type": "target_distance", "weight": 1.0, "topic": "cube/pose"},
            "clipped": {"weight": 1.0},
            "success": {"weight": 1.0},
        },
        RobotDescription(JOINT_NAMES),
        CAMERAS,
    )
    assert reward.needs == {"joints", "step", "executed"}
    assert reward.cameras == ("wrist", "front")
    assert reward.pose_topics == ("cube/pose",)


def test_a_missing_input_gives_0_and_is_named_until_it_is_there():
    reward = reward_of(DEMO)
    shares = reward(step(success=True))
    assert (shares.values.tolist(), shares.missing) == ([0.0, 1.0], ("environment",))
    assert re.fullmatch("environment: environment: expected .*", reward.problems["environment"])
    shares = reward(step(environment=environment(0.5)))
    assert (shares.values.tolist(), shares.missing) == ([0.5, 0.0], ())
    assert reward.problems == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_a_value_that_no_record_can_hold_is_missing(value):
    reward = reward_of({"says": SAYS | {"weight": 1.0}, "time": {"weight": 1.0}})
    shares = reward(step(command=np.array([value])))
    assert (shares.values.tolist(), shares.missing) == ([0.0, 1.0], ("says",))
    assert f"says: expected a finite value, found {value}" == reward.problems["says"]


@pytest.mark.parametrize(
    ("label", "values"), [(SUCCESS, [0.0, 2.0, 0.0, 1.0]), (FAILURE, [0.0, 0.0, -5.0, 1.0])]
)
def test_a_late_label_changes_the_outcome_and_nothing_else(label, values):
    """The other terms are not asked again: what they read has gone by then."""
    reward = reward_of(
        {
            "environment": {"weight": 1.0},
            "success": {"weight": 2.0},
            "failure": {"weight": -5.0},
            "says": SAYS | {"weight": 1.0, "value": 7.0},
        }
    )
    before = reward(step(command=np.array([1.0])))
    after = reward.judge(before, step(label=label))
    assert after.values.tolist() == values
    assert after.missing == before.missing == ("environment",)
    assert before.values.tolist() == [0.0, 0.0, 0.0, 1.0]


def test_a_fault_of_a_users_term_is_not_taken_for_a_missing_input():
    reward = reward_of({"says": SAYS | {"weight": 1.0}})
    with pytest.raises(IndexError):
        reward(step(command=np.array([])))


def test_settings_come_as_ros_parameters_hold_them():
    limits = {"weight": 1, "lower": array.array("d", [-1.0]), "upper": array.array("q", [1])}
    term = reward_of({"joint_limits": limits | {"joints": ["pan"]}}).terms["joint_limits"]
    assert (term.lower, term.upper, term.joints) == ((-1.0,), (1.0,), ("pan",))


def test_terms_of_installed_packages_are_found(tmp_path, monkeypatch):
    folder = tmp_path / "some_package-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        f"[residual_smolvla_ros.reward_terms]\nsays = {__name__}:Says\ntime = {__name__}:Says\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    reward = reward_of({"says": {"weight": 1.0, "value": 4.0}, "time": {"weight": 1.0}})
    assert reward(step()).values.tolist() == [4.0, 1.0]  # what is built in stays what it is


@pytest.mark.parametrize("kind", BUILT_IN)
def test_every_built_in_term_has_a_unit_and_known_needs(kind):
    needed = {
        "target_distance": {"target": [0.2, 0.0, 0.0]},
        "image_distance": {"camera": "front", "hsv_lower": [0, 0, 0], "hsv_upper": [9, 9, 9]},
        "joint_limits": {"lower": [-1.0] * 5, "upper": [1.0] * 5},
    }
    values = {"weight": 1.0} | needed.get(kind, {})
    term = make_reward({kind: values}, RobotDescription(JOINT_NAMES), CAMERAS).terms[kind]
    assert term.unit
    assert term.of_outcome == (kind in ("success", "failure"))


IMAGE = {"weight": 1, "camera": "front", "hsv_lower": [0, 0, 0], "hsv_upper": [9, 9, 9]}


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        ({}, r"terms: expected at least one reward term, found none"),
        ({"a b": {"weight": 1}}, r"terms: expected names of letters, digits and _, found 'a b'"),
        ({"1st": {"weight": 1}}, r"terms: expected names .*, found '1st'"),
        ({"time": 1.0}, r"terms.time: expected its weight, type and settings, found 1.0"),
        ({"lift": {"weight": 1}}, r"terms.lift: type: expected one of success, .*time.* 'lift'"),
        ({"t": {"type": 3, "weight": 1}}, r"terms.t: type: expected a name, found 3"),
        ({"t": {"type": "no.such:T", "weight": 1}}, r"expected a module no.such, found Module"),
        ({"t": {"type": "json:T", "weight": 1}}, r"a RewardTerm T in json, found None"),
        ({"t": {"type": "json:JSONDecoder", "weight": 1}}, r"a RewardTerm JSONDecoder in json, fo"),
        ({"t": {"type": f"{__name__}:Moon", "weight": 1}}, r"needs: expected some of .*'moon'"),
        ({"t": {"type": f"{__name__}:NoDataclass", "weight": 1}}, r"type: expected a dataclass"),
        ({"time": {}}, r"terms.time: weight: expected a finite number, found none"),
        ({"time": {"weight": "1"}}, r"weight: expected a finite number, found '1'"),
        ({"time": {"weight": True}}, r"weight: expected a finite number, found True"),
        ({"time": {"weight": math.nan}}, r"weight: expected a finite number, found nan"),
        ({"time": {"weight": 1, "rate": 2}}, r"expected settings out of none, found rate"),
        ({"velocity": {"weight": 1, "rate": 2}}, r"settings out of limit, joints, found rate"),
        ({"velocity": {"weight": 1, "limit": "fast"}}, r"`limit`: Couldn't parse 'fast' into a fl"),
        ({"velocity": {"weight": 1, "limit": -1}}, r"velocity: limit: expected >= 0 rad/s, fou"),
        ({"velocity": {"weight": 1, "limit": math.nan}}, r"velocity: limit: expected .*, found"),
        ({"velocity": {"weight": 1, "joints": ["lift"]}}, r"expected some of pan, gripper, fou"),
        ({"load": {"weight": 1, "threshold": 1.5}}, r"threshold: expected a share"),
        ({"smoothness": {"weight": 1, "order": 3}}, r"order: expected 1 or 2, found 3"),
        ({"joint_limits": {"weight": 1, "margin": 0.0}}, r"margin: expected > 0 rad, found 0.0"),
        ({"joint_limits": {"weight": 1, "lower": [0, 1]}}, r"lower: expected 1 joint limits in"),
        ({"joint_limits": {"weight": 1, "lower": [1.0]}}, r"expected lower < upper, found"),
        ({"image_distance": {"weight": 1}}, r"Missing required field\(s\) `camera`"),
        ({"image_distance": IMAGE | {"camera": "side"}}, r"robot's \(front, wrist\), found 'side'"),
        ({"image_distance": IMAGE | {"hsv_lower": [0, 0]}}, r"`hsv_lower`: Expected 3 items, got"),
        ({"image_distance": IMAGE | {"hsv_upper": [180, 9, 9]}}, r"hsv_upper: expected 0..179"),
        ({"image_distance": IMAGE | {"hsv_lower": [0, 10, 0]}}, r"expected saturation and value"),
        ({"image_distance": IMAGE | {"point": [0.5, 1.5]}}, r"point, min_area: expected shares"),
        ({"image_distance": IMAGE | {"max_age_s": 0.0}}, r"max_age_s: expected > 0 s"),
    ],
)  # fmt: skip
def test_a_wrong_term_is_one_line_that_names_it(terms, text):
    with pytest.raises(ConfigError, match=text) as caught:
        reward_of(terms)
    assert "\n" not in str(caught.value)
