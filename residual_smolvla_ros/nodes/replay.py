"""Node `replay`: a bag's messages, as they were serialised, back into a graph."""

import importlib
import json
import threading
import time

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosReliability
from tqdm import tqdm

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.nodes.common import RECORD_QOS, PipelineNode
from residual_smolvla_ros.nodes.common import main as run
from residual_smolvla_ros.nodes.parts.image_intake import read_stamp
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.recording.bag_reader import Bag, Message, open_bag
from residual_smolvla_ros.recording.checks.command import node_parameters
from residual_smolvla_ros.recording.tracks import Track, check_joints, choose, is_states
from residual_smolvla_ros.robots.units import JOINT_NAMES

LOOK_S = 0.05
# As fast as it goes, so much may be under way: that a message was taken is told late, when DDS's
# next heartbeat asks for it (config/fastdds_replay.xml).
UNDER_WAY, UNDER_WAY_BYTES = 1000, 64_000_000
ACK_S = 5.0
# As the simulator does with a state that is not answered.
REPEAT_S, ANSWER_S = 0.5, 10.0
ANY, NONE = "any", "none"
CUT_OFF = ("refuse", "allow")


class ReplayNode(PipelineNode):
    """Play a bag once those that listen are there, and end."""

    def __init__(self):
        super().__init__("replay")
        path = self.parameter("bag", "", "bag to play")
        truncated = self.parameter("truncated", "refuse", About("cut off bags", choices=CUT_OFF))
        self._rate = self.parameter(
            "rate", 1.0, About("1: real time; 0: as fast as it is taken", 0)
        )
        topics = self._names("topics", "topics to play; default: all")
        remaps = self._names("remap", "other names for topics: old=new")
        self._wait_for = self._names("wait_for", "topics that must have a subscriber first")
        answers = self.parameter("answers", "", "topic whose message each joint_states waits for")
        joints = self._names("joint_names", "joints of joint_states; any: whatever they are")
        if not path:
            raise ConfigError("bag: expected a bag, found none")
        self._bag = open_bag(path, truncated)
        pairs = dict(pair.split("=", 1) for pair in remaps)
        self._tracks = {t.topic: t for t in choose(self._bag, topics, pairs, answers)}
        if joints != [ANY]:
            check_joints(self._bag, list(self._tracks.values()), joints or JOINT_NAMES)
        self._check_wait()
        self._awaits = bool(answers)
        self._expected = _answered(self._bag, answers) if answers else None
        self._answered: set[int] = set()
        self._news = threading.Condition()
        if answers:
            self._hear(answers)
        self._publishers_of = {t.topic: self._publisher(t) for t in self._tracks.values()}
        self._under_way = self._bytes_under_way = 0
        self._lacks = "subscribers"
        self.unanswered = 0
        self._stop, self._error = threading.Event(), None
        self._thread = threading.Thread(target=self._play, name="replay", daemon=True)
        self._thread.start()
        self.create_timer(LOOK_S, self._look)

    def _names(self, name: str, description: str) -> list[str]:
        # An empty list has no type in ROS 2: an empty word stands for none.
        return [word for word in self.parameter(name, [""], description) if word]

    def _check_wait(self) -> None:
        names = {track.name for track in self._tracks.values()}
        if strange := [n for n in self._wait_for if n not in names and self._wait_for != [NONE]]:
            raise ConfigError(
                f"wait_for: expected topics that are played ({', '.join(sorted(names))}), "
                f"found {', '.join(strange)}"
            )

    def _publisher(self, track: Track):
        qos = _qos(track.qos)
        if not self._rate:
            # Else a message would take the place of one that is still under way.
            qos.depth = max(qos.depth, 2 * UNDER_WAY)
            qos.reliability = ReliabilityPolicy.RELIABLE
        return self.create_publisher(_type_of(track.kind), track.name, qos)

    def _hear(self, topic: str) -> None:
        kind = self._bag.topics.get(topic, "trajectory_msgs/msg/JointTrajectory")
        self.create_subscription(_type_of(kind), topic, self._on_answer, RECORD_QOS.depth, raw=True)

    def _on_answer(self, message: bytes) -> None:
        with self._news:
            self._answered.add(read_stamp(message))
            self._news.notify()

    # -- in a thread of its own -------------------------------------------------------------

    def _play(self) -> None:
        try:
            if self._wait_for != [NONE]:
                self._wait_for_subscribers()
            self._send_all()
        except Exception as error:
            self._error = error
        finally:
            self._stop.set()

    def _wait_for_subscribers(self) -> None:
        heard = {t.name: self._publishers_of[t.topic] for t in self._tracks.values()}
        enough = all if self._wait_for else any
        wanted = self._wait_for or list(heard)
        told = time.monotonic()
        while not self._stop.wait(LOOK_S):
            counts = {name: heard[name].get_subscription_count() for name in wanted}
            if enough(counts.values()):
                self._lacks = ""
                return
            if time.monotonic() - told > 2.0:
                told = float("inf")
                missing = [name for name, count in counts.items() if not count]
                self.get_logger().info(f"waiting for subscribers of {', '.join(missing)}")

    def _send_all(self) -> None:
        self._lacks = ""
        total = sum(self._bag.counts[topic] for topic in self._tracks)
        began, first = time.monotonic(), None
        with tqdm(total=total, unit="message", dynamic_ncols=True, disable=None) as bar:
            for message in self._bag.messages(list(self._tracks)):
                first = message.stamp if first is None else first
                if self._rate:
                    due = began + (message.stamp - first) / 1e9 / self._rate
                    self._stop.wait(max(0.0, due - time.monotonic()))
                if self._stop.is_set():
                    return
                self._send(message)
                bar.update()
        self._wait_until_taken()

    def _wait_until_taken(self) -> None:
        self._under_way = self._bytes_under_way = 0
        for publisher in self._publishers_of.values():
            publisher.wait_for_all_acked(Duration(seconds=ACK_S))

    def _send(self, message: Message) -> None:
        publisher = self._publishers_of[message.topic]
        publisher.publish(message.data)
        self.tally("messages")
        if self._awaits and is_states(self._tracks[message.topic]):
            self._await_answer(publisher, message)
        elif not self._rate:
            self._under_way += 1
            self._bytes_under_way += len(message.data)
            if self._under_way >= UNDER_WAY or self._bytes_under_way >= UNDER_WAY_BYTES:
                self._wait_until_taken()

    def _await_answer(self, publisher, message: Message) -> None:
        """Wait for the answer to a state, if it had one in the bag; repeat it meanwhile."""
        stamp = read_stamp(message.data)
        if self._expected is not None and stamp not in self._expected:
            return
        end = time.monotonic() + ANSWER_S
        with self._news:
            while stamp not in self._answered and not self._stop.is_set():
                if time.monotonic() > end:
                    self.unanswered += 1
                    return
                if not self._news.wait(REPEAT_S):
                    publisher.publish(message.data)

    # -- in the executor --------------------------------------------------------------------

    def _look(self) -> None:
        """End the node once all has been played."""
        if not self._stop.is_set():
            return
        if self._error is not None:
            raise self._error
        if self.unanswered:
            raise ConfigError(f"expected an answer to each state, found none to {self.unanswered}")
        raise SystemExit(0)

    def status(self):
        """Report how far it is."""
        if self._lacks:
            return DiagnosticStatus.OK, f"waiting for {self._lacks}", {}
        return DiagnosticStatus.OK, "playing", {"unanswered": str(self.unanswered)}

    def close(self) -> None:
        """Stop playing."""
        self._stop.set()
        with self._news:
            self._news.notify()
        self._thread.join(1.0)
        self._bag.close()


def _answered(bag: Bag, topic: str) -> frozenset[int] | None:
    """Return the stamps that were answered in the recording; None where it does not tell."""
    if topic not in bag.topics:
        return None
    return frozenset(read_stamp(message.data) for message in bag.messages([topic]))


def _type_of(kind: str):
    package, _, name = kind.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def _qos(offered: Qos | None) -> QoSProfile:
    """Return what the recorded publisher offered: reliable and volatile where that is not known."""
    if offered is None:
        return QoSProfile(depth=10)
    keeps_all = offered.history == QosHistory.KEEP_ALL
    best_effort = offered.reliability == QosReliability.BEST_EFFORT
    latched = offered.durability == QosDurability.TRANSIENT_LOCAL
    return QoSProfile(
        history=HistoryPolicy.KEEP_ALL if keeps_all else HistoryPolicy.KEEP_LAST,
        depth=offered.depth or 10,
        reliability=ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def ros_arguments(values: dict) -> list[str]:
    """Return the command line of the node for the values of the command `replay`."""
    # JSON is YAML, which is what ROS 2 reads.
    parameters = node_parameters(values).items()
    words = [word for n, v in parameters for word in ("-p", f"{n}:={json.dumps(v)}")]
    return ["--ros-args", *words]


def main(args=None) -> None:
    """Entry point of the executable."""
    run(ReplayNode, args)


if __name__ == "__main__":
    main()
