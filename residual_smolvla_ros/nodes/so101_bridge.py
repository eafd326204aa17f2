"""Node `so101_bridge`: a LeRobot robot <-> ROS, behind the safety filter.

It publishes the state at `rate_hz` and follows `joint_trajectory` as far as the filter allows.
What it wrote in answer to each state goes out as `executed_command`, with that state's stamp.
"""

import dataclasses
import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.nodes.common import (
    CONTROL_QOS,
    RECORD_QOS,
    to_nanoseconds,
    to_stamp,
)
from residual_smolvla_ros.nodes.common import main as run
from residual_smolvla_ros.nodes.parts.joint_names import JointNames
from residual_smolvla_ros.nodes.parts.managed import ManagedNode
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.robots.arm import ArmState, SafeArm
from residual_smolvla_ros.robots.driver import RobotDriver, RobotLost
from residual_smolvla_ros.robots.limits import ArmSettings
from residual_smolvla_ros.robots.realtime import RealtimeThread
from residual_smolvla_ros.robots.safety import CommandRefused, Mode

MAX_RATE_HZ = 100.0
WARN_EVERY_S = 5.0
INACTIVE = "the bridge is inactive"
REALTIME_PRIORITY = About("SCHED_FIFO where allowed; 0: none", 0, 99)


class So101BridgeNode(ManagedNode):
    """Publish states, follow commands, hold, go home, reset; inactive, the arm holds."""

    _arm: SafeArm | None = None

    def __init__(self):
        super().__init__("so101_bridge", automatically_declare_parameters_from_overrides=True)

    def configure(self) -> None:
        """Open the robot's port; without commands it holds."""
        rate = self.parameter("rate_hz", 30.0, About("how often the robot is read", 1, MAX_RATE_HZ))
        self._reset_time = self.parameter(
            "reset_time_s", 10.0, "time to set the scene after going home; < 0: until `done`"
        )
        home = self.parameter("home", Parameter.Type.DOUBLE_ARRAY, "where home is, in rad")
        settings = self._make_settings()
        try:
            robot = RobotDriver(self.group("robot", "the robot, as LeRobot's `--robot.`"))
            self._arm = SafeArm(robot, settings, rate)
        except RobotLost as error:
            raise ConfigError(f"expected a robot, found none: {error}") from None
        names = self._arm.joint_names
        self._names = JointNames(self, names)
        if home and (len(home) != len(names) or not np.isfinite(home).all()):
            raise ConfigError(f"home: expected {len(names)} finite positions, found {list(home)}")
        self._home = np.array(home) if home else None
        self._period = 1.0 / rate
        self._stamp = 0
        self._ticked_at = 0.0
        self._waited_since: float | None = None  # a reset waits for the scene
        self._reset_asked = self._scene_done = False
        self._told: tuple[str, str, str] = ("", "", "")  # trouble, mode, reason

        self._states = self.create_publisher(JointState, "joint_states", CONTROL_QOS)
        self._executed = self.create_publisher(JointState, "executed_command", RECORD_QOS)
        self._commands = self.create_subscription(
            JointTrajectory, "joint_trajectory", self._on_command, CONTROL_QOS
        )
        self._writer: tuple[int, ...] | None = None
        self._warned_at: dict[str, float] = {}
        self.create_service(Trigger, "~/hold", self._on_hold)
        self.create_service(Trigger, "~/release", self._on_release)
        self.create_service(Trigger, "~/home", self._on_home)
        self.create_service(Trigger, "reset_environment", self._on_reset)
        self.create_service(Trigger, "reset_environment/done", self._on_done)
        priority = self.parameter("realtime_priority", 50, REALTIME_PRIORITY)
        self._thread = RealtimeThread(priority)
        if self._thread.error:
            self.get_logger().info(f"no real-time scheduling: {self._thread.error}")
        self.create_timer(self._period, self._tick)
        self.get_logger().info(f"connected: {', '.join(names)} at {rate:g} Hz")

    def activate(self) -> None:
        """Follow commands again, unless the arm is held for another reason."""
        if self._arm.filter.reason == INACTIVE:
            self._arm.release()

    def deactivate(self) -> None:
        """Hold where the arm is."""
        self._reset_asked = False
        if self._arm.filter.mode is not Mode.LATCHED:
            self._arm.hold(INACTIVE)

    def _make_settings(self) -> ArmSettings:
        values = {}
        for field in dataclasses.fields(ArmSettings):
            default = field.default
            if isinstance(default, tuple):
                default = list(default) or Parameter.Type.DOUBLE_ARRAY
            value = self.parameter(field.name, default, field.metadata["about"])
            values[field.name] = () if value is None else value
        return ArmSettings(**values)

    # -- the control step -------------------------------------------------------------------

    def _tick(self) -> None:
        started = time.monotonic()
        if self._ticked_at and started - self._ticked_at > 1.5 * self._period:
            self.tally("overruns")
        self._ticked_at = started
        executed = self._arm.filter.goal
        # Before the read: a state is never older than its stamp says.
        now = self.now_ns()
        with self._thread.paused():
            state = self._arm.tick()
        if state is not None and self.active:
            previous, self._stamp = self._stamp, now
            self._publish(self._states, self._stamp, state.position, state)
            if previous and executed is not None:
                self._publish(self._executed, previous, executed)
            self.tally("states")
        self._tell_mode()

    def _publish(
        self, publisher, stamp: int, position: np.ndarray, state: ArmState | None = None
    ) -> None:
        message = JointState(name=self._names.on_topics, position=position.tolist())
        message.header.stamp = to_stamp(stamp)
        # Never empty: rclpy serialises empty arrays in a way that not every reader takes.
        message.velocity = message.effort = [0.0] * len(position)
        if state is not None:
            message.velocity = state.velocity.tolist()
            if state.load is not None:
                message.effort = state.load.tolist()
        publisher.publish(message)

    def _on_command(self, message: JointTrajectory) -> None:
        if self._commands.get_publisher_count() > 1:
            self._refuse("writers", f"expected one publisher, found also {self._intruders()}; "
                                    "none is followed while there are several")  # fmt: skip
            return
        if not self.active:
            self._refuse("inactive", f"expected an active node, found that {INACTIVE}")
            return
        stamp = to_nanoseconds(message.header.stamp)
        age = self.now_ns() - stamp
        try:
            if len(message.points) != 1:
                raise CommandRefused("points", f"expected 1 point, found {len(message.points)}")
            names = self._names.translate(message.joint_names)
            self._arm.command(names, message.points[0].positions, stamp / 1e9, age / 1e9)
            self.tally("commands")
        except CommandRefused as error:
            self._refuse(error.kind, str(error))

    def _refuse(self, kind: str, reason: str) -> None:
        self.tally(f"refused_{kind}")
        now = time.monotonic()
        # Each kind by itself: another fault is not to be hidden by the one before.
        if now - self._warned_at.get(kind, 0.0) > WARN_EVERY_S:
            self._warned_at[kind] = now
            self.get_logger().warning(f"{self._commands.topic_name}: refused: {reason}")

    def _intruders(self) -> str:
        """Return the nodes that publish commands beside the first."""
        found = {
            tuple(info.endpoint_gid): f"{info.node_namespace.rstrip('/')}/{info.node_name}"
            for info in self.get_publishers_info_by_topic(self._commands.topic_name)
        }
        if self._writer not in found:
            self._writer = next(iter(found), None)
        return ", ".join(name for gid, name in found.items() if gid != self._writer)

    # -- hold, home, reset ------------------------------------------------------------------

    def _on_hold(self, request: Trigger.Request, response: Trigger.Response):
        self._arm.hold("service hold")
        response.success, response.message = True, "holding until release"
        return response

    def _on_release(self, request: Trigger.Request, response: Trigger.Response):
        if not self.active:
            return self._refuse_inactive(response)
        self._arm.release()
        response.success, response.message = True, "commands are followed again"
        return response

    def _on_home(self, request: Trigger.Request, response: Trigger.Response):
        return self._go_home(response)

    def _refuse_inactive(self, response: Trigger.Response) -> Trigger.Response:
        response.message = f"expected an active node, found that {INACTIVE}"
        return response

    def _go_home(self, response: Trigger.Response) -> Trigger.Response:
        if not self.active:
            return self._refuse_inactive(response)
        if self._home is None:
            response.message = "expected the parameter home, found none"
            return response
        try:
            self._arm.home(self._home)
            response.success, response.message = True, "going home"
        except CommandRefused as error:
            response.message = str(error)
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response):
        """Take a reset one step further; success once the scene is set. Called until then."""
        if not self.active:
            return self._refuse_inactive(response)
        if not self._reset_asked:
            if self._home is not None:
                self._go_home(response)
                if not response.success:
                    return response
            self._reset_asked, self._scene_done, self._waited_since = True, False, None
        response.success = False
        if self._arm.filter.mode is Mode.HOME:
            response.message = "going home"
        elif self._arm.filter.mode is Mode.LATCHED or self._arm.trouble:
            self._reset_asked = False
            response.message = (
                f"expected an arm that is free to move, found: "
                f"{self._arm.trouble or self._describe()}"
            )
        else:
            self._await_scene(response)
        return response

    def _await_scene(self, response: Trigger.Response) -> None:
        now = time.monotonic()
        if self._waited_since is None:
            self._waited_since = now
        left = self._reset_time - (now - self._waited_since)
        if self._scene_done or (self._reset_time >= 0 and left <= 0):
            self._reset_asked = False
            response.success, response.message = True, "the scene is set"
        else:
            until = f"{left:.0f} s" if self._reset_time >= 0 else "no limit"
            response.message = f"waiting for the scene ({until}): call reset_environment/done"

    def _on_done(self, request: Trigger.Request, response: Trigger.Response):
        response.success = self._reset_asked
        response.message = "the scene is set" if response.success else "no reset is under way"
        self._scene_done = self._reset_asked
        return response

    # -- reports ----------------------------------------------------------------------------

    def _tell_mode(self) -> None:
        """Log what the arm does when that changes."""
        arm = self._arm
        told = self._told
        self._told = arm.trouble, arm.filter.mode, arm.filter.reason
        if self._told == told:
            return
        if arm.trouble:
            if arm.trouble != told[0]:
                self.get_logger().error(f"robot lost: {arm.trouble}")
        elif arm.filter.mode is Mode.LATCHED:
            self.get_logger().error(self._describe())
        else:
            self.get_logger().info(self._describe())

    def _describe(self) -> str:
        mode, reason = self._arm.filter.mode, self._arm.filter.reason
        return f"{mode}: {reason}" if reason else str(mode)

    def status(self):
        """Report the mode, what was clipped and refused, and errors of the bus."""
        arm = self._arm
        values = {"mode": str(arm.filter.mode), "reason": arm.filter.reason}
        values |= {f"clipped_{kind}": str(n) for kind, n in arm.filter.clipped.items()}
        values |= {f"errors_{kind}": str(n) for kind, n in arm.errors.items()}
        if arm.trouble:
            return DiagnosticStatus.ERROR, f"robot lost: {arm.trouble}", values
        latched = arm.filter.mode is Mode.LATCHED
        level = DiagnosticStatus.ERROR if latched else DiagnosticStatus.OK
        return level, self._describe(), values

    def release(self) -> None:
        """Hold where the arm is, with torque on, and close the port."""
        arm, self._arm = self._arm, None
        if arm is not None:
            arm.close()


def main(args=None) -> None:
    """Entry point of the executable."""
    run(So101BridgeNode, args)


if __name__ == "__main__":
    main()
