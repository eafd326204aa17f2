"""The simulated SO101 as a robot of LeRobot: observations out, actions in."""

from collections.abc import Mapping

import numpy as np

from residual_smolvla_ros.api.observation import read_state, write_action
from residual_smolvla_ros.records import Record
from residual_smolvla_ros.robots.simulation import CAMERAS, SimulatedSO101
from residual_smolvla_ros.robots.units import lerobot_to_rad, rad_to_lerobot


class SimulatedRobot:
    """A cube to be lifted; each action is one control step of 1/30 s of simulated time.

    Beside LeRobot's keys an observation holds what features and reward terms ask a simulator:
    `velocity`, `privileged`, `target` and the record `environment`.
    """

    name = "so101_sim"

    def __init__(self):
        self._sim = SimulatedSO101()

    def connect(self) -> None:
        """Set the first scene."""
        self.reset(seed=0)

    def reset(self, seed: int) -> None:
        """Set the scene of a seed."""
        self._sim.reset(seed)

    def get_observation(self) -> dict:
        """Return joints in LeRobot's units, images (H, W, 3) uint8 and the simulator's state."""
        state = self._sim.state()
        told = {
            "privileged": state.privileged,
            "target": state.target.astype(np.float32),
            "velocity": self._sim.joint_velocities(),
        }
        tensors = told | {"reward": np.float32(state.reward)}
        return (
            write_action(rad_to_lerobot(self._sim.joint_positions()))
            | {camera: self._sim.render(camera) for camera in CAMERAS}
            | told
            | {"environment": Record(tensors, {"success": state.success})}
        )

    def send_action(self, action: Mapping[str, float]) -> dict[str, float]:
        """Play one control step; return the action."""
        self._sim.step(lerobot_to_rad(read_state(action)))
        return dict(action)

    def disconnect(self) -> None:
        """Release the simulator."""
        self._sim.close()
