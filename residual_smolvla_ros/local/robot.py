"""Robots of `finetune-local`: any arm that LeRobot drives, behind the safety filter, or simulated.

Both have the methods of a robot of LeRobot.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from lerobot.cameras.utils import make_cameras_from_configs
from lerobot.robots import RobotConfig

from residual_smolvla_ros.api.observation import read_state, write_action
from residual_smolvla_ros.api.simulated_robot import SimulatedRobot
from residual_smolvla_ros.robots.arm import SafeArm
from residual_smolvla_ros.robots.driver import SUFFIX, RobotDriver, RobotLost
from residual_smolvla_ros.robots.limits import ArmSettings
from residual_smolvla_ros.robots.servo_bus import one_line
from residual_smolvla_ros.robots.simulation import CAMERAS, IMAGE_SIZE
from residual_smolvla_ros.robots.units import JOINT_NAMES, lerobot_to_rad, rad_to_lerobot

JOINTS = {f"{name}{SUFFIX}": float for name in JOINT_NAMES}


@RobotConfig.register_subclass("so101_pick_lift")
@dataclass
class SimulatedArmConfig(RobotConfig):
    """The simulated arm of the demo."""


class SimulatedArm(SimulatedRobot):
    """The simulated arm: as fast as it goes, and it knows success by itself."""

    in_real_time = False
    joint_names = JOINT_NAMES
    action_features = JOINTS

    def __init__(self):
        super().__init__()
        self.robot_type = self.name
        self.cameras = dict.fromkeys(CAMERAS)
        shapes = dict.fromkeys(CAMERAS, (IMAGE_SIZE, IMAGE_SIZE, 3))
        self.observation_features = JOINTS | shapes

    def hold(self) -> None:
        """Nothing: time stands still between its steps."""


class FilteredRobot:
    """An arm of LeRobot whose motors are told what the safety filter lets through, no more.

    Raises ConfigError for a robot without joint positions, RobotLost where it is not there.
    """

    in_real_time = True

    def __init__(self, config: RobotConfig, rate_hz: float):
        self._driver = RobotDriver(config)
        self.name = self.robot_type = self._driver.name
        self.joint_names = self._driver.joint_names
        self.cameras = make_cameras_from_configs(getattr(config, "cameras", {}))
        self._rate_hz = rate_hz
        self._arm: SafeArm | None = None
        self.action_features = {f"{name}{SUFFIX}": float for name in self.joint_names}
        self.observation_features = self.action_features | {
            name: (camera.height, camera.width, 3) for name, camera in self.cameras.items()
        }

    def connect(self) -> None:
        """Connect arm and cameras; the arm stays where it is, with torque on."""
        for name, camera in self.cameras.items():
            try:
                camera.connect()
            # Whatever a driver's library raises.
            except Exception as error:
                raise RobotLost(f"camera {name}: {one_line(error)}") from None
        self._arm = SafeArm(self._driver, ArmSettings(), self._rate_hz)

    def reset(self, seed: int) -> None:
        """Follow commands again, from where the arm is; a person sets the scene."""
        self._arm.release()

    def get_observation(self) -> dict:
        """Return joints in LeRobot's units, velocity in rad/s, and each camera's newest image.

        Raises RobotLost where arm or camera cannot be read.
        """
        state = self._arm.tick()
        if state is None:
            raise RobotLost(self._arm.trouble)
        images = {}
        for name, camera in self.cameras.items():
            try:
                images[name] = camera.read_latest()
            except Exception as error:
                raise RobotLost(f"camera {name}: {one_line(error)}") from None
        told = {"velocity": state.velocity}
        if state.load is not None:
            told["effort"] = state.load
        return self._told(state.position) | images | told

    def send_action(self, action: Mapping[str, float]) -> dict[str, float]:
        """Follow an action as far as the filter allows; return what the motors were told.

        Raises CommandRefused in a hold, as after a stall.
        """
        goal = lerobot_to_rad(read_state(action, self.joint_names), self.joint_names)
        self._arm.command(list(self.joint_names), goal, stamp=time.monotonic(), age=0.0)
        return self._told(self._arm.filter.goal)

    def _told(self, positions: np.ndarray) -> dict[str, float]:
        return write_action(rad_to_lerobot(positions, self.joint_names), self.joint_names)

    def hold(self) -> None:
        """Stay where the arm is until the next episode."""
        if self._arm is not None:
            self._arm.hold("between episodes")

    def disconnect(self) -> None:
        """Hold where the arm is, with torque on, and close port and cameras."""
        if self._arm is not None:
            self._arm.close()
        for camera in self.cameras.values():
            if camera.is_connected:
                camera.disconnect()


def make_robot(config: RobotConfig, rate_hz: float) -> SimulatedArm | FilteredRobot:
    """Return the robot of a configuration, not connected yet."""
    if isinstance(config, SimulatedArmConfig):
        return SimulatedArm()
    return FilteredRobot(config, rate_hz)
