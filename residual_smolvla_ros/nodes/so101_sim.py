"""Node `so101_sim`: the simulated SO101 with its cameras, in lockstep or in real time.

In lockstep it publishes a state, waits for the command with that stamp, and steps: as fast as the
processor allows, and the same seed gives the same run. An unanswered state is repeated, so that a
message lost to a node that was just starting holds nothing up. While held, the arm stays where it
is; in lockstep its time stands still. In lockstep the cameras are rendered every
`camera_period_steps`, and whenever a state stays unanswered: the policy may wait for images.
"""

import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.nodes.common import (
    CONTROL_QOS,
    LATCHED_QOS,
    PipelineNode,
    image_qos,
    to_message,
    to_stamp,
)
from residual_smolvla_ros.nodes.common import (
    main as run,
)
from residual_smolvla_ros.nodes.parts.images import pinhole_info, to_image_message
from residual_smolvla_ros.nodes.parts.joint_names import JointNames
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.records import ENVIRONMENT_STATE, EPISODE_EVENT, Record, pack
from residual_smolvla_ros.robots.simulation import CAMERAS, RATE_HZ, SimulatedSO101

PERIOD_NS = round(1e9 / RATE_HZ)
RESET_STEPS = 10
REPEAT_S = 0.05
SPECTATOR_EVERY = 3
# Beyond all joints' ranges, and still a number of ticks to LeRobot's conversion.
FURTHEST_RAD = 100.0


class So101SimNode(PipelineNode):
    """Publish states and images, take commands, reset on request."""

    def __init__(self):
        super().__init__("so101_sim")
        self._lockstep = self.parameter(
            "lockstep", True, "wait for the command to each state instead of running in real time"
        )
        self._camera_period = self.parameter(
            "camera_period_steps", 1, About("control steps between two images of a camera", 1)
        )
        self._seed = self.parameter(
            "seed", 0, "first seed of resets that no episode/event prepared"
        )
        self._sim = SimulatedSO101()
        self._names = JointNames(self, self._sim.joint_names).on_topics
        self._sim.reset(self._seed)
        self._plan: EpisodePlan | None = None
        self._prepared = False
        self._active = self._held = False
        self._step = 0
        self._stamp = PERIOD_NS if self._lockstep else self.now_ns()
        self._previous_stamp = 0
        self._command: np.ndarray | None = None
        self._awaiting: JointState | None = None
        self._published_at = 0.0
        self._rests_until = 0.0  # in real time, after a reset

        self._states = self.create_publisher(JointState, "joint_states", CONTROL_QOS)
        self._environment = self.record_publisher("environment/state")
        self._time = self.create_publisher(Clock, "/clock", 10) if self._lockstep else None
        qos = image_qos(self._lockstep)
        names = [*CAMERAS, "spectator"]
        self._images = {n: self.create_publisher(Image, f"{n}/image_raw", qos) for n in names}
        self._infos = {
            n: self.create_publisher(CameraInfo, f"{n}/camera_info", qos) for n in CAMERAS
        }
        self.record_subscription(EPISODE_EVENT, "episode/event", self._on_event, LATCHED_QOS)
        self.create_subscription(Bool, "episode/active", self._on_active, LATCHED_QOS)
        self.create_subscription(JointTrajectory, "joint_trajectory", self._on_command, CONTROL_QOS)
        self.create_service(Trigger, "reset_environment", self._on_reset)
        self.create_service(Trigger, "~/hold", self._on_hold)
        self.create_service(Trigger, "~/release", self._on_release)
        period = REPEAT_S if self._lockstep else 1.0 / RATE_HZ
        self.create_timer(period, self._repeat if self._lockstep else self._tick)

    def _on_event(self, record: Record) -> None:
        if record.metadata["event"] == "prepare":
            self._plan = EpisodePlan.from_json(record.metadata["plan"])
            self._prepared = True
            known = record.metadata["last_stamp"]
            if self._lockstep and self._stamp < known:
                # Another simulator was here before, and came further than its rewards tell.
                self._stamp = known + (2 * self._plan.max_steps + 100) * PERIOD_NS

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response):
        # The request carries no seed; the prepare event does, and may still be on its way.
        if not self._prepared and self.count_publishers("episode/event"):
            response.message = "expected a prepare event before the reset, found none yet"
            return response
        self._seed = self._plan.seed if self._prepared else self._seed + 1
        self._prepared = False
        self._sim.reset(self._seed)
        # The message that the last episode is over may have been overtaken by this request.
        self._active = False
        self._step = 0
        self._command = None
        self._awaiting = None
        self._previous_stamp = 0
        # Far enough that no state of the last episode can be taken for one of this.
        if self._lockstep:
            self._stamp += RESET_STEPS * PERIOD_NS
        else:
            self._rests_until = time.monotonic() + RESET_STEPS / RATE_HZ
        self.tally("resets")
        response.success = True
        response.message = f"seed {self._seed}"
        return response

    def _on_hold(self, request: Trigger.Request, response: Trigger.Response):
        self._held, self._command = True, self._sim.joint_positions()
        response.success, response.message = True, "holding until release"
        return response

    def _on_release(self, request: Trigger.Request, response: Trigger.Response):
        self._held = False
        response.success, response.message = True, "commands are followed again"
        return response

    def _on_active(self, message: Bool) -> None:
        if message.data and not self._active and self._lockstep:
            self._active = True
            self._publish_state()
        self._active = message.data
        if not self._active:
            self._awaiting = None

    def _on_command(self, message: JointTrajectory) -> None:
        command = self._read_command(message)
        if command is None or self._held:
            return
        if not self._lockstep:
            self._command = command
        elif self._awaiting is not None and message.header.stamp == self._awaiting.header.stamp:
            self._advance(command)

    def _read_command(self, message: JointTrajectory) -> np.ndarray | None:
        names = list(self._names)
        if sorted(message.joint_names) != sorted(names) or not message.points:
            found = f"expected one point of joints {names}, found {message.joint_names}"
            self.refuse("joint_trajectory", found)
            return None
        positions = np.asarray(message.points[0].positions, dtype=np.float64)
        if positions.shape != (len(names),) or not np.isfinite(positions).all():
            found = f"expected {len(names)} finite positions, found {positions.tolist()}"
            self.refuse("joint_trajectory", found)
            return None
        order = [message.joint_names.index(name) for name in names]
        return np.clip(positions[order], -FURTHEST_RAD, FURTHEST_RAD)

    def _advance(self, command: np.ndarray) -> None:
        self._sim.step(command)
        self._step += 1
        self._previous_stamp = self._stamp
        self._stamp += PERIOD_NS
        self.tally("steps")
        self._publish_state()

    def _tick(self) -> None:
        """Real time: hold the last command, step, publish."""
        if time.monotonic() < self._rests_until:
            return
        command = self._command if self._command is not None else self._sim.joint_positions()
        self._sim.step(command)
        self._step += 1
        self._previous_stamp = self._stamp if self._step > 1 else 0
        self._stamp = max(self.now_ns(), self._stamp + 1)
        self.tally("steps")
        self._publish_state()

    def _publish_state(self) -> None:
        stamp = to_stamp(self._stamp)
        if self._time is not None and self._time.get_subscription_count():
            self._time.publish(Clock(clock=stamp))
        if self._lockstep:
            self._look(stamp)
        state = self._sim.state()
        blob = pack(
            ENVIRONMENT_STATE,
            {"privileged": state.privileged, "target": state.target, "reward": state.reward},
            stamp=self._stamp,
            previous_stamp=self._previous_stamp,
            success=state.success,
        )
        self._environment.publish(to_message(blob))
        message = JointState(name=self._names)
        message.header.stamp = stamp
        message.position = self._sim.joint_positions().tolist()
        message.velocity = self._sim.joint_velocities().tolist()
        message.effort = [0.0] * len(message.name)
        self._awaiting = message
        self._states.publish(message)
        self._published_at = time.monotonic()
        if not self._lockstep:  # a servo does not wait for a camera
            self._look(stamp)

    def _look(self, stamp) -> None:
        if self._step % self._camera_period == 0:
            self._publish_images(stamp)
        if self._plan and self._plan.spectator and self._step % SPECTATOR_EVERY == 0:
            pixels = self._sim.render("spectator")
            self._images["spectator"].publish(to_image_message(pixels, stamp, "spectator"))

    def _publish_images(self, stamp) -> None:
        for name, view in CAMERAS.items():
            pixels = self._sim.render(name)
            frame = f"{name}_optical_frame"
            self._images[name].publish(to_image_message(pixels, stamp, frame))
            info = pinhole_info(
                stamp, frame, view.width, view.height, self._sim.field_of_view(name)
            )
            self._infos[name].publish(info)

    def _repeat(self) -> None:
        late = time.monotonic() - self._published_at >= REPEAT_S
        if self._active and self._awaiting is not None and late and not self._held:
            if self._step % self._camera_period:
                self._publish_images(self._awaiting.header.stamp)
            self._states.publish(self._awaiting)

    def status(self):
        """Report the episode's step and whether a command is awaited."""
        waiting = self._awaiting is not None
        values = {"step": str(self._step), "active": str(self._active), "stamp": str(self._stamp)}
        values["mode"] = "hold" if self._held else "follow"
        message = "waiting for a command" if waiting else "waiting for an episode"
        return DiagnosticStatus.OK, message, values

    def close(self) -> None:
        """Release the simulator."""
        self._sim.close()


def main(args=None) -> None:
    """Entry point of the executable."""
    run(So101SimNode, args)


if __name__ == "__main__":
    main()
