"""NTP may set the wall clock back or forth by any amount while nodes run."""

import re
import time
from pathlib import Path

import pytest
import rclpy
from rclpy.clock import ClockType
from rclpy.parameter import Parameter
from rclpy.time import Time

from residual_smolvla_ros import nodes, pipeline
from residual_smolvla_ros.nodes.common import PipelineNode

HOUR_NS = 3_600_000_000_000
# What may ask for the wall clock: who was here first, times in a bag, the beginning of ROS time.
ALLOWED = {"parts/other_pipelines.py", "recorder.py", "common.py"}
WALL = re.compile(r"time\.time\(|time\.time_ns\(|datetime\.now\(|clock\(\)\.now\(\)(?!\.to_msg)")


@pytest.fixture
def node(monkeypatch):
    for name, value in pipeline.environment().items():
        monkeypatch.setenv(name, value)
    rclpy.init(domain_id=100)
    made = PipelineNode("steady")
    yield made
    made.destroy_node()
    rclpy.shutdown()


@pytest.mark.parametrize("jump", [-HOUR_NS, HOUR_NS])
def test_stamps_go_on_evenly_when_the_wall_clock_jumps(node, monkeypatch, jump):
    """Behind the last one they were refused by the safety filter and the learner, for an hour."""
    before, wall = node.now_ns(), time.time_ns
    assert abs(before - wall()) < 1e9
    monkeypatch.setattr(time, "time_ns", lambda: wall() + jump)
    assert 0 < node.now_ns() - before < 10e9


def test_with_simulated_time_stamps_are_of_it(node):
    """A Gazebo's images would be decades old by the wall clock, and no plan be made of them."""
    node.set_parameters([Parameter("use_sim_time", value=True)])
    node.get_clock().set_ros_time_override(Time(seconds=7))
    assert node.now_ns() == 7_000_000_000


def test_timers_are_of_a_steady_clock(node):
    """One of ROS time rests until the wall clock is where it was."""
    assert node.create_timer(1.0, print).clock.clock_type == ClockType.STEADY_TIME


def test_no_node_measures_time_by_the_wall_clock():
    folder = Path(nodes.__file__).parent
    found = {
        str(file.relative_to(folder))
        for file in folder.rglob("*.py")
        if WALL.search(file.read_text())
    }
    assert found <= ALLOWED
