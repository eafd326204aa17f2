"""A second pipeline on the same ROS domain is found and named before it can command the arm."""

import json
import os
import socket
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from robot_graph import isolated
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.nodes.common import LATCHED_QOS, PipelineNode
from residual_smolvla_ros.nodes.episode import EpisodeNode
from residual_smolvla_ros.nodes.parts import other_pipelines
from residual_smolvla_ros.nodes.parts.other_pipelines import IDENTITY, Identity, OtherPipelines
from residual_smolvla_ros.security import enclave

POLICY = ElementTree.parse(Path(__file__).resolve().parents[1] / "config" / "sros2_policy.xml")
DOMAIN = 81
TIMEOUT_S = 15.0
# Where there is nobody to be found.
SHORT_S = 0.6


@pytest.fixture(scope="module")
def graph():
    """Contexts as those of processes of their own; what is made in them is ended."""
    made: list[Context] = []

    def join(domain: int = DOMAIN) -> Context:
        made.append(Context())
        rclpy.init(context=made[-1], domain_id=domain)
        return made[-1]

    with isolated(DOMAIN):
        yield join
        for context in made:
            context.try_shutdown()


class Pipeline:
    """The node `episode` of a pipeline, as far as it looks for others."""

    def __init__(
        self,
        context: Context,
        run: str,
        namespace: str = "/",
        look_s: float = other_pipelines.LOOK_S,
    ):
        self.node = PipelineNode("episode", context=context, namespace=namespace)
        self.others = OtherPipelines(self.node, run, look_s)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)

    def look(self) -> str:
        """Spin and look once; return what is awaited."""
        self._executor.spin_once(timeout_sec=0.02)
        self.others.look()
        return self.others.awaited

    def until(self, condition) -> None:
        """Look until a condition on what is awaited holds."""
        end = time.monotonic() + TIMEOUT_S
        while not condition(self.look()):
            assert time.monotonic() < end, f"still awaited: {self.others.awaited!r}"

    def leave(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()


@pytest.fixture
def make(graph):
    """Make pipelines in contexts of their own."""
    made = []

    def pipeline(run: str, domain: int = DOMAIN, **settings) -> Pipeline:
        made.append(Pipeline(graph(domain), run, **settings))
        return made[-1]

    yield pipeline
    for one in made:
        one.leave()


def is_alone(awaited: str) -> bool:
    return awaited == ""


def test_a_pipeline_alone_waits_for_discovery_and_no_longer(make):
    mine = make("outputs/a", look_s=SHORT_S)
    began = time.monotonic()
    assert mine.look() == other_pipelines.LOOKING
    mine.until(is_alone)
    assert SHORT_S * 0.9 < time.monotonic() - began < SHORT_S + 0.5


def test_the_second_pipeline_ends_with_the_first_ones_process_host_and_run(make):
    """Two sessions on one arm: each policy answered the states of the other's robot."""
    first = make("outputs/first", look_s=SHORT_S)
    first.until(is_alone)
    first.others.settle()
    second = make("outputs/second")
    with pytest.raises(ConfigError) as refused:
        second.until(is_alone)
    text = str(refused.value)
    assert f"process {os.getpid()} on {socket.gethostname()}, run outputs/first" in text
    assert f"ROS domain {DOMAIN} in namespace /" in text
    assert "ROS_DOMAIN_ID" in text
    assert "\n" not in text
    assert first.look() == ""


def test_of_two_that_start_together_one_goes_on(make):
    """Else each ended because of the other, and nobody was left."""
    elder, younger = make("outputs/elder", look_s=SHORT_S), make("outputs/younger")
    elder.until(lambda awaited: "outputs/younger" in awaited)
    with pytest.raises(ConfigError, match="outputs/elder"):
        younger.until(is_alone)
    younger.leave()
    elder.until(is_alone)


def test_other_namespaces_and_domains_are_no_other_pipeline(make):
    first = make("a", look_s=SHORT_S)
    others = [{"namespace": "/left"}, {"domain": DOMAIN + 1}]
    others = [make("b", look_s=SHORT_S, **settings) for settings in others]
    found = first.node.get_node_names_and_namespaces
    for one in (first, *others):
        one.until(lambda awaited: is_alone(awaited) and ("episode", "/left") in found())


def test_a_publisher_of_commands_beside_the_own_policy_is_waited_for_and_named(
    make, graph, monkeypatch
):
    """The own policy, which comes up at any time, and here or elsewhere, is none."""
    mine, other = make("outputs/mine", look_s=SHORT_S), graph()
    policy = rclpy.create_node("policy", context=other)
    policy.create_publisher(JointState, "joint_trajectory", 1)  # of whatever type
    mine.until(is_alone)
    planner = rclpy.create_node("move_group", context=other)
    commands = planner.create_publisher(JointState, "joint_trajectory", 1)
    mine.until(lambda awaited: "expected one publisher of /joint_trajectory" in awaited)
    assert "/policy" in mine.others.awaited
    assert "/move_group" in mine.others.awaited
    planner.destroy_publisher(commands)
    mine.until(is_alone)
    monkeypatch.setattr(other_pipelines, "LEAVE_S", 0.0)
    planner.create_publisher(JointState, "joint_trajectory", 1)
    with pytest.raises(ConfigError, match="/move_group"):
        mine.until(lambda _: False)


@pytest.fixture
def first(make):
    return make("outputs/first")


@pytest.fixture
def episode(graph, tmp_path):
    """The node `episode` of a pipeline."""
    rclpy.init(args=["--ros-args", "-p", f"output:={tmp_path / 'run'}"], domain_id=DOMAIN)
    node = EpisodeNode()
    yield node
    node.destroy_node()
    rclpy.shutdown()


def spin_for_ever(node: PipelineNode) -> None:
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.02)


def test_the_node_episode_begins_nothing_beside_another_pipeline(first, episode):
    assert episode._missing()
    with pytest.raises(ConfigError, match="outputs/first"):
        spin_for_ever(episode)
    # A page that watches the first pipeline must not be told the second one's state.
    assert episode._state == ""


def test_the_sros2_policy_allows_what_a_node_really_has(episode):
    """What rclpy adds to each node differs from version to version."""
    of_fleets = {"/episode/request", "/episode/plan"}
    path = f".//enclave[@path='{enclave('episode')}']//*[@{{}}='ALLOW']/*"
    name, space = episode.get_name(), episode.get_namespace()
    for may, found in (
        ("publish", episode.get_publisher_names_and_types_by_node(name, space)),
        ("subscribe", episode.get_subscriber_names_and_types_by_node(name, space)),
        ("reply", episode.get_service_names_and_types_by_node(name, space)),
        ("request", episode.get_client_names_and_types_by_node(name, space)),
    ):
        allowed = {one.text.replace("~", name) for one in POLICY.findall(path.format(may))}
        full = {"/" + one.removeprefix("/") for one in allowed}
        assert full - of_fleets == {one for one, _ in found}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"started": 1e999, "host": "", "pid": 1, "run": ""}', "[" * 5000]
)
def test_what_is_no_identity_is_nobody(text):
    assert Identity.from_json(text) is None


def test_an_identity_fits_into_one_line_whoever_said_it():
    said = {"started": 1, "host": "a\nb\x1b[31m", "pid": 2, "run": "r" * 1000}
    found = str(Identity.from_json(json.dumps(said)))
    assert found.startswith("process 2 on a?b?[31m, run r")
    assert len(found) < 300


def test_one_that_does_not_say_who_it_is_is_taken_for_the_first(make, graph):
    """By the name of its node, once there has been time to say more."""
    stranger = rclpy.create_node("episode", context=graph())
    stranger.create_publisher(String, IDENTITY, LATCHED_QOS).publish(String(data="?"))
    with pytest.raises(ConfigError, match="found /episode; /episode"):
        make("outputs/mine", look_s=SHORT_S).until(lambda awaited: False)
    stranger.destroy_node()
