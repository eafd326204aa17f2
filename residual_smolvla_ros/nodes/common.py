"""What every node shares: start and stop, quality of service, records and stamps on topics."""

import array
import os
import re
import sys
import time
import traceback
from typing import NoReturn

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.executors import ExternalShutdownException
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import UInt8MultiArray

from residual_smolvla_ros import records
from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.nodes.parts.parameters import ParameterNode
from residual_smolvla_ros.respawning import REFUSED

CRASHED = 70  # EX_SOFTWARE of sysexits.h: what crashed may be started again, what refused not
# Reliable, and kept for a subscriber that is discovered late: no record is lost at start-up.
# Deep enough for all steps between two updates, which is as far as a learner can fall behind.
RECORD_QOS = QoSProfile(
    depth=10_000,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
LATCHED_QOS = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
CONTROL_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
# Of what is said of messages that are refused: characters, and s between two of a topic.
MAX_REASON, WARN_EVERY_S = 300, 5.0


def image_qos(lockstep: bool) -> QoSProfile:
    """Return best effort, newest only; in lockstep reliable: no frame may be missing."""
    if lockstep:
        return LATCHED_QOS
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


def state_qos(lockstep: bool) -> QoSProfile:
    """Return reliable, newest only; in lockstep deep enough to lose none."""
    return CONTROL_QOS if lockstep else QoSProfile(depth=1)


def main(node_class, args=None) -> NoReturn:
    """Run one node until it is told to stop, and end the process.

    A `ValueError` (a bad parameter, checkpoint or file) ends it with one line and exit code 1;
    `SystemExit` raised in a callback with its own code; any other error with its trace and
    exit code 70.
    """
    node, code = None, 0
    try:
        _init(args)
        node = node_class()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except SystemExit as error:
        code = error.code or 0
    except ValueError as error:
        name = node.get_name() if node else _default_name(node_class)
        print(f"{name}: error: {error}", file=sys.stderr)
        code = REFUSED
    except Exception:
        # A signal shuts ROS down under a callback, whose next publish then fails.
        if rclpy.ok():
            traceback.print_exc()
            code = CRASHED
    finally:
        if node is not None:
            node.close()
            # Else others would take it for alive until its lease ends, after some 20 s.
            node.destroy_node()
        rclpy.try_shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        # Python takes seconds to unload torch and the simulator, and Ctrl-C is to end all in 5 s.
        os._exit(code)


def _default_name(node_class) -> str:
    words = re.findall("[A-Z][a-z0-9]*", node_class.__name__.removesuffix("Node"))
    return "_".join(words).lower()


def _init(args) -> None:
    try:
        rclpy.init(args=args)
    except RuntimeError as error:  # of rcl: most often a parameter file that it cannot read
        raise ConfigError(f"expected arguments that ROS 2 can read, found: {error}") from None


def to_nanoseconds(stamp: Time) -> int:
    """Return a stamp in ns."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def to_stamp(nanoseconds: int) -> Time:
    """Return ns as a stamp."""
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def to_message(blob: bytes) -> UInt8MultiArray:
    """Wrap a packed record in a message."""
    # rclpy copies an array.array in one go, and walks any other sequence byte by byte.
    return UInt8MultiArray(data=array.array("B", blob))


class PipelineNode(ParameterNode):
    """A node with records and a once-a-second report on /diagnostics."""

    # rclpy watches every publisher and subscription for QoS events in each turn of its executor,
    # which costs more than the control step's own work.
    def create_publisher(self, *args, **kwargs):
        """Create a publisher without QoS event handlers."""
        quiet = PublisherEventCallbacks(use_default_callbacks=False)
        return super().create_publisher(*args, event_callbacks=quiet, **kwargs)

    def create_timer(self, period_s: float, callback, **settings):
        """Create a timer of a steady clock: one of ROS time waits as long as the wall clock jumps.

        So it is with rclpy's own, by which a node would rest for an hour that NTP takes back.
        """
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        return super().create_timer(period_s, callback, **{"clock": clock} | settings)

    def now_ns(self) -> int:
        """Return ROS time in ns: simulated time with `use_sim_time`.

        Else the wall clock's when the node began, and evenly on from there.
        """
        clock = self.get_clock()
        if clock.ros_time_is_active:
            return clock.now().nanoseconds
        return self._began_ns + time.monotonic_ns()

    def create_subscription(self, kind, topic: str, callback, *args, **kwargs):
        """Create a subscription without QoS event handlers."""
        quiet = SubscriptionEventCallbacks(use_default_callbacks=False)
        callback = self.taker(topic, callback)
        return super().create_subscription(
            kind, topic, callback, *args, event_callbacks=quiet, **kwargs
        )

    def taker(self, topic: str, callback):
        """Return what is called with a topic's messages: the callback; nodes override it."""
        return callback

    def __init__(self, name: str, **settings):
        super().__init__(name, **settings)
        self._began_ns = time.time_ns() - time.monotonic_ns()
        self.counts: dict[str, int] = {}
        self.refused = 0
        self._refused_at: dict[str, float] = {}
        self._last_counts: dict[str, int] = {}
        self._last_refused = 0
        self._last_report = time.monotonic()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(1.0, self._report)

    def record_publisher(self, topic: str, qos: QoSProfile = RECORD_QOS):
        """Create a publisher of records."""
        return self.create_publisher(UInt8MultiArray, topic, qos)

    def record_subscription(
        self, schema: records.Schema, topic: str, callback, qos: QoSProfile = RECORD_QOS
    ):
        """Call `callback` with each valid record; refuse, count and report the others.

        A record that means nothing to its receiver is refused by a RecordError of `callback`.
        """

        def receive(message: UInt8MultiArray) -> None:
            try:
                callback(records.unpack(schema, message.data))
            except records.RecordError as error:
                self.refuse(topic, error)

        return self.create_subscription(UInt8MultiArray, topic, receive, qos)

    def matched(self, topic: str, callback):
        """Return a callback of JointStates whose ConfigError ends the node at first only.

        The robot and the node's joints do not match then. Once they have, a message with other
        joints is a stranger's: it is refused, counted and reported.
        """
        matched = False

        def receive(message: JointState) -> None:
            nonlocal matched
            try:
                callback(message)
                matched = True
            except ConfigError as error:
                if not matched:
                    raise
                self.refuse(topic, error)

        return receive

    def refuse(self, topic: str, reason) -> None:
        """Count a message that is not followed, and say why, not too often for each topic."""
        self.refused += 1
        now = time.monotonic()
        if now - self._refused_at.get(topic, float("-inf")) >= WARN_EVERY_S:
            self._refused_at[topic] = now
            # What is in it may be anything, and long.
            self.get_logger().warning(f"{topic}: {str(reason)[:MAX_REASON]}")

    def tally(self, name: str) -> None:
        """Count an event; /diagnostics shows its rate."""
        self.counts[name] = self.counts.get(name, 0) + 1

    def status(self) -> tuple[int, str, dict[str, str]]:
        """Return level, message and values for /diagnostics; nodes override it."""
        return DiagnosticStatus.OK, "running", {}

    def told_status(self) -> tuple[int, str, dict[str, str]]:
        """Return what /diagnostics is told."""
        return self.status()

    def _report(self) -> None:
        now = time.monotonic()
        elapsed = now - self._last_report
        level, message, values = self.told_status()
        for name, count in self.counts.items():
            rate = (count - self._last_counts.get(name, 0)) / elapsed
            values |= {name: str(count), f"{name}_per_s": f"{rate:.1f}"}
        values["records_refused"] = str(self.refused)
        new, self._last_refused = self.refused - self._last_refused, self.refused
        if new > 0 and level == DiagnosticStatus.OK:
            level, message = DiagnosticStatus.WARN, f"{message}; {new} messages refused"
        self._last_counts, self._last_report = dict(self.counts), now
        status = DiagnosticStatus(
            level=level,
            name=self.get_fully_qualified_name(),
            message=message,
            hardware_id="residual_smolvla_ros",
            values=[KeyValue(key=k, value=v) for k, v in values.items()],
        )
        report = DiagnosticArray(status=[status])
        report.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(report)

    def close(self) -> None:
        """Release what the node holds; called once, after the last callback."""
