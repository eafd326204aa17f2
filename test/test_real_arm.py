"""The whole pipeline on an arm that is only emulated at its servos and cameras' devices."""

import json
import time

import graph
import psutil
import pytest
from feetech_emulator import Emulator
from lerobot.datasets import LeRobotDataset
from robot_graph import isolated
from video_device import VideoDevice

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.nodes.call import call

pytestmark = pytest.mark.realtime

DOMAIN = 24
NODES = {"so101_bridge", "camera", "policy", "reward", "learner", "episode"}


@pytest.fixture
def domain(request):
    with isolated(DOMAIN + request.param) as domain:
        yield domain


@pytest.fixture
def servos(tmp_path):
    with Emulator(tmp_path) as emulator:
        emulator.calibrate(tmp_path, "arm")
        yield emulator


@pytest.fixture
def cameras(tmp_path):
    devices = {name: VideoDevice(tmp_path / name) for name in ("front", "wrist")}
    for device in devices.values():
        device.plug()
    yield devices
    for device in devices.values():
        device.unplug()


@pytest.fixture
def config(tmp_path, servos, cameras):
    """A file as a person writes it: the robot, its cameras, and a few arguments."""
    robot = {"type": "so101_follower", "port": servos.port, "id": "arm",
             "calibration_dir": str(tmp_path)}  # fmt: skip
    robot["cameras"] = {
        name: {"type": "opencv", "index_or_path": str(device.path)}
        for name, device in cameras.items()
    }
    pipeline = {"sim": False, "base_checkpoint": str(DEMO_CHECKPOINT), "eval_episodes": 0,
                "reset_time_s": 0.5, "robot": robot}  # fmt: skip
    bridge = {"home": [0.0, -1.0, 1.0, 1.0, 0.0, 0.5], "home_velocity": 2.0}
    # Vision tokens are encoded beside the control loop here.
    learner = graph.SETTINGS["/**/learner"] | {"episodes_per_update": 1, "critic_only": [""]}
    learner["features"] = ["state", "velocity", "base_action", "chunk_position", "vision",
                           "vision_age"]  # fmt: skip
    episode = {"validation_every": 0}
    terms = {"success": {"weight": 2}, "clipped": {"weight": -0.1}, "load": {"weight": -0.1}}
    return graph.write_config(
        tmp_path, pipeline=pipeline, so101_bridge=bridge, learner=learner, episode=episode,
        reward={"terms": terms},
        # A busy machine may be late with images.
        recorder={"dataset_max_image_age_s": 10.0},
    )  # fmt: skip


@pytest.mark.parametrize("domain", [0], indirect=True)
def test_a_session_trains_from_labels_and_ends_with_a_report(domain, config, servos, tmp_path):
    output, text = tmp_path / "run", ""
    process = graph.start(
        domain, "finetune", config=config, output=output, episodes=2, episode_time_s=3,
        record="true", dataset=tmp_path / "dataset",
    )  # fmt: skip
    try:
        episodes, log = output / "episodes.jsonl", output / "log" / "episode.log"
        graph.wait_until(lambda: called("episode/success"), process)
        graph.wait_until(lambda: episodes.is_file(), process)
        # The second one ends at its time limit, and waits for a label.
        graph.wait_until(lambda: "2: truncated" in read(log), process)
        assert called("episode/success")
        text, _ = process.communicate(timeout=120)
    finally:
        text = graph.stop(process) or text
    assert process.returncode == 0, text
    first, second = map(json.loads, episodes.read_text().splitlines())
    assert (first["label"], first["reason"]) == ("success", "labelled")
    assert (second["label"], second["reason"], second["steps"]) == ("success", "truncated", 90)
    assert [o["terms"]["success"] for o in (first, second)] == [2.0, 2.0]
    assert first["terms"]["clipped"] < 0
    updates = [json.loads(line) for line in (output / "updates.jsonl").read_text().splitlines()]
    assert [u["env_steps"] for u in updates] == [first["steps"], first["steps"] + 90]
    returns = [o["episode_return"] for o in (first, second)]
    assert [u["return"] for u in updates] == pytest.approx(returns)
    # After the hold of a reset, the filter lets the arm follow the policy by and by.
    assert all(0.0 < u["executed_changed"] <= 1.0 for u in updates)
    assert "were lost" not in (output / "log" / "learner.log").read_text()
    assert (output / "report.html").is_file()
    assert all(servos.torque().values())
    graph.check_bag(output / "bag")
    data = LeRobotDataset("local/session", root=tmp_path / "dataset")
    assert (data.num_episodes, data.num_frames) == (2, first["steps"] + 90)


@pytest.mark.parametrize("domain", [1], indirect=True)
def test_the_arm_holds_when_a_camera_goes_and_when_the_policy_is_killed(
    domain, config, servos, cameras, tmp_path
):
    output = tmp_path / "run"
    process = graph.start(
        domain, "finetune", config=config, output=output, episodes=1, episode_time_s=600
    )
    bridge = output / "log" / "so101_bridge.log"
    try:
        graph.wait_until(lambda: "follow" in read(bridge), process)
        holds = read(bridge).count("no command for")
        cameras["front"].unplug()
        graph.wait_until(lambda: read(bridge).count("no command for") > holds, process)
        stands_still(servos)
        assert "camera gone" in (output / "log" / "camera_front.log").read_text()
        follows = read(bridge).count("follow")
        cameras["front"].plug()
        graph.wait_until(lambda: read(bridge).count("follow") > follows, process)
        nodes = graph.children(process)
        assert set(nodes) == NODES
        psutil.Process(nodes["policy"]).kill()
        process.wait(timeout=60)
    finally:
        text = graph.stop(process)
    assert process.returncode != 0
    assert "node policy ended with exit code -9" in text
    assert "Traceback" not in text
    assert not any(psutil.pid_exists(pid) for pid in nodes.values())
    assert (output / "checkpoints" / "000000" / "state.json").is_file()
    stands_still(servos)
    assert all(servos.torque().values())


def called(service: str) -> bool:
    try:
        return call(service)[0]
    except ValueError:  # not there yet
        return False


def read(file) -> str:
    return file.read_text() if file.is_file() else ""


def stands_still(servos: Emulator) -> None:
    """Check that the servos come to rest at goals that no longer change."""
    goals = servos.goals()
    end = time.monotonic() + 5.0
    while max(abs(goals[name] - position) for name, position in servos.positions().items()) > 0.02:
        assert time.monotonic() < end, (goals, servos.positions())
    assert servos.goals() == goals
