"""A fleet's nodes over DDS: arms in namespaces, which come, go and are taken for lost.

An episode has eight steps; four are played before training, eight trained in two updates, four
played after it.
"""

import json
import time

import fleet_peer
import numpy as np
import pytest
import rclpy
from fleet_peer import make_arm, make_learner
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from robot_graph import isolated
from safetensors.numpy import load_file

from residual_smolvla_ros.nodes.parts import other_pipelines

DOMAIN = 112
TIMEOUT_S = 40.0
EPISODES = 4 + 8 + 4


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """A domain of its own, where a look for other pipelines need not take long."""
    monkeypatch.setattr(other_pipelines.OtherPipelines.__init__, "__defaults__", (0.3,))
    with isolated(DOMAIN):
        yield


class Running:
    """A fleet in this process: nodes by arm, those of the learner at ""."""

    def __init__(self, output, robots=("arm1", "arm2")):
        self.context, self.output = Context(), output
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.nodes = {}
        self.add("", make_learner(self.context, list(robots), output))

    def add(self, arm: str, nodes: list) -> None:
        self.nodes[arm] = nodes
        for node in nodes:
            self.executor.add_node(node)

    def join(self, arm: str) -> None:
        self.add(arm, make_arm(self.context, arm, self.output, 0.002))

    def leave(self, arm: str) -> None:
        for node in self.nodes.pop(arm):
            self.executor.remove_node(node)
            node.destroy_node()

    def until(self, condition) -> bool:
        """Spin until a condition holds, or the fleet has ended."""
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < end
            try:
                self.executor.spin_once(timeout_sec=0.05)
            except SystemExit:
                return False
        return True

    def outcomes(self) -> list[dict]:
        file = self.output / "episodes.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def end(self) -> None:
        self.until(lambda: False)
        for node in self.nodes[""]:
            node.close()
        self.executor.shutdown()
        for nodes in self.nodes.values():
            for node in nodes:
                node.destroy_node()
        self.context.try_shutdown()


def test_arms_come_and_go_and_the_learner_takes_every_step_of_what_counts(tmp_path):
    """The weights are those of a fleet of one, to the bit: nothing is lost, and nothing twice."""
    alone = Running(tmp_path / "alone", ["arm1"])
    alone.join("arm1")
    alone.end()

    fleet = Running(tmp_path / "fleet")
    fleet.join("arm1")
    fleet.until(lambda: len(fleet.outcomes()) >= 2)
    fleet.join("arm2")
    fleet.until(lambda: any(o["arm"] == "arm2" and o["phase"] == "train" for o in fleet.outcomes()))
    stub = fleet.nodes["arm1"][0]
    fleet.until(lambda: stub._active and stub._tick > 2)
    fleet.leave("arm1")  # in the middle of an episode
    fleet.end()

    found = fleet.outcomes()
    assert len({(o["phase"], o["index"]) for o in found}) == len(found) == EPISODES
    assert {o["arm"] for o in found} == {"arm1", "arm2"}
    status = fleet.nodes[""][0]._fleet.status()
    assert [status[f"{arm}/lost"] for arm in ("arm1", "arm2")] == ["0", "0"]
    for version in ("000001", "000002"):
        one, other = (
            load_file(tmp_path / name / "checkpoints" / version / "training.safetensors")
            for name in ("alone", "fleet")
        )
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
    summary = json.loads((tmp_path / "fleet" / "summary.json").read_text())
    trained = sum(arm["env_steps"] for arm in summary["arms"].values())
    assert trained == summary["env_steps"] == 8 * fleet_peer.STEPS
