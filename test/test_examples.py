"""The examples run, in simulation and with LeRobot's own driver on emulated servos."""

import importlib.util
from pathlib import Path

import pytest
from emulated_so101 import emulated_so101
from lerobot.cameras.opencv import OpenCVCameraConfig
from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

from residual_smolvla_ros import SimulatedRobot
from residual_smolvla_ros.arguments import DEMO_CHECKPOINT

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example():
    file = EXAMPLES / "record_loop.py"
    assert len(file.read_text().splitlines()) <= 40
    spec = importlib.util.spec_from_file_location("record_loop", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def so101(tmp_path):
    """LeRobot's own robot: servos on a pseudo-terminal, cameras on pipes."""
    with emulated_so101(tmp_path) as (servos, devices):
        cameras = {
            name: OpenCVCameraConfig(device, width=320, height=240, fps=30)
            for name, device in devices.items()
        }
        config = SO101FollowerConfig(
            port=servos.port, id="arm", calibration_dir=tmp_path, cameras=cameras
        )
        for camera in cameras.values():  # a pipe cannot be told its size, as a device can
            camera.width = camera.height = camera.fps = None
        yield SO101Follower(config)


def test_the_record_loop_learns_in_simulation(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example.record_with_rl(SimulatedRobot(), DEMO_CHECKPOINT, "Lift", steps=6, fps=0)
    assert capsys.readouterr().out.count("return 0.0") == 5
    assert (tmp_path / "outputs" / "record_loop" / "000005" / "residual.safetensors").is_file()


@pytest.mark.realtime
def test_the_record_loop_runs_on_an_so101_and_takes_its_success(
    example, so101, monkeypatch, capsys
):
    monkeypatch.setattr("builtins.input", lambda prompt: "")
    seen = []
    example.record_with_rl(
        so101, DEMO_CHECKPOINT, "Lift", episodes=1, steps=20,
        is_done=lambda observation: seen.append(observation) or len(seen) == 5,
    )  # fmt: skip
    assert len(seen) == 5
    assert "episode 1: return 1.0" in capsys.readouterr().out
    assert not so101.is_connected
