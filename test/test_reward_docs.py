"""What docs/rewards.md shows runs as it stands there."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml

from residual_smolvla_ros.rewards.composition import make_reward
from residual_smolvla_ros.rewards.registry import BUILT_IN, find_term
from residual_smolvla_ros.rewards.term import RobotDescription
from residual_smolvla_ros.rewards.transition import Transition
from residual_smolvla_ros.robots.units import JOINT_NAMES

TEXT = (Path(__file__).parents[1] / "docs" / "rewards.md").read_text()
ROBOT = RobotDescription(JOINT_NAMES)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_a_users_term_is_one_class_and_one_line(tmp_path, monkeypatch):
    (source,) = blocks("python")
    assert len([line for line in source.splitlines() if line]) <= 15
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "my_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    reward = make_reward(yaml.safe_load(blocks("yaml")[1])["terms"], ROBOT, [])
    position = np.array([0.0, 0.0, 0.0, 0.7, 0.0, 0.0])
    shares = reward(Transition(stamp=1, next_stamp=2, tick=0, position=position))
    assert (shares.names, shares.missing) == (("wrist_tilt",), ())
    assert shares.total == pytest.approx(-0.2)
    assert reward(Transition(stamp=1, next_stamp=2, tick=0)).missing == ("wrist_tilt",)


def test_the_parameter_file_that_is_shown_is_taken():
    terms = yaml.safe_load(blocks("yaml")[0])["/**/reward"]["ros__parameters"]["terms"]
    reward = make_reward(terms, ROBOT, ["front"])
    assert reward.names == ("success", "target_distance", "smoothness", "red_cube")


def test_the_table_names_every_term_with_its_unit_settings_and_defaults():
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \| (.*?) ?\|$", TEXT, flags=re.MULTILINE)
    assert [name for name, _, _ in rows] == list(BUILT_IN)
    for name, unit, settings in rows:
        kind = find_term(name)
        assert unit == kind.unit
        assert re.findall(r"`(\w+)`", settings) == [field.name for field in fields(kind)]
        numbers = [f for f in fields(kind) if isinstance(f.default, int | float)]
        assert all(f"`{field.name}` {field.default}" in settings for field in numbers)
