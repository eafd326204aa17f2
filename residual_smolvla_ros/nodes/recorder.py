"""Node `recorder`: a session as a bag, as a dataset, and its description on the topic `session`.

Messages are written as they came over the wire; raw images only are compressed, without loss.
The description is published once all that is to be recorded is heard: the episodes wait for it.
"""

import importlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from sensor_msgs.msg import Image
from std_msgs.msg import String

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.nodes.common import LATCHED_QOS, PipelineNode
from residual_smolvla_ros.nodes.common import main as run
from residual_smolvla_ros.nodes.parts.dataset_writer import DatasetWriter
from residual_smolvla_ros.nodes.parts.images import to_png_message
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.recording.bag_reader import GLOBAL, SESSION
from residual_smolvla_ros.recording.bag_thread import BagThread
from residual_smolvla_ros.recording.session import (
    IMAGE,
    RAW_IMAGE,
    RECORDED,
    STRING,
    describe,
    image_topic,
)
from residual_smolvla_ros.session_outline import free_folder

LOOK_S = 0.1
# What may wait in DDS while Python is busy with something else.
DEPTH, IMAGE_DEPTH = 10_000, 200
# Of the 4 s between SIGTERM and SIGKILL, which come later where a dataset is written.
CLOSE_S = 3.0
# At the end messages may still be on their way: until none has come for a while, within a limit.
QUIET_S, DRAIN_S = 0.2, 0.8


@dataclass
class _Source:
    """A topic to record: where it is heard, as what it is written, and the last number of it."""

    topic: str
    kind: str
    name: str
    written_kind: str
    encode: Callable[[bytes], bytes] | None = None
    qos: Qos | None = None
    number: int = 0
    is_alone: bool = False  # its publisher

    @property
    def is_image(self) -> bool:
        return self.kind in (IMAGE, RAW_IMAGE)


class RecorderNode(PipelineNode):
    """Record the topics of a session for as long as it lasts."""

    def __init__(self):
        super().__init__("recorder")
        outline = self.parameter("session", "", "what the pipeline tells of the session, as JSON")
        bag = self.parameter("bag", "", "bag to write; none: the session is described only")
        run_id = self.parameter("run_id", "", "set: beside a bag or dataset that is there already")
        if run_id and bag:
            bag = str(free_folder(Path(bag)))
        cameras = self.parameter("cameras", ["front", "wrist"], "cameras whose images to record")
        transport = self.parameter(
            "image_transport",
            "compressed",
            About("images to take; raw ones are written as PNG", choices=("raw", "compressed")),
        )
        self._needed = set(
            self.parameter("needed", ["joint_states"], "topics that the session waits for")
        )
        waiting = self.parameter("max_waiting_mb", 256, About("images are dropped beyond", 0))
        if not outline:
            raise ConfigError("session: expected what the pipeline tells of it, found none")
        session = describe(outline)
        self._session = String(data=session.to_json())
        self._announced = None
        self._lost: Counter[str] = Counter()
        self._has_failed = False
        self._thread: BagThread | None = None
        self._sources: list[_Source] = []
        self._heard: list = []
        if bag:
            self._open(Path(bag), waiting)
        self._dataset = DatasetWriter(self, session, beside=bool(run_id))
        if bag or self._dataset.is_on:
            images = [_image_source(self, camera, transport) for camera in cameras]
            self._needed |= {source.topic for source in images}
            self._sources = [
                _Source(name, kind, self.resolve_topic_name(name), kind)
                for name, kind in RECORDED
                if name != SESSION and (bag or name in self._dataset.topics)
            ] + images
        heard = {source.topic for source in self._sources}
        self._waited_for = self._needed & heard
        self._look_timer = self.create_timer(LOOK_S, self._look)
        self.create_timer(1.0, self._watch)

    def _open(self, folder: Path, waiting_mb: int) -> None:
        try:
            self._thread = BagThread(folder, waiting_mb * 1_000_000)
        except OSError as error:
            raise ConfigError(f"bag: expected a folder to write to, found {error}") from None
        name = self.resolve_topic_name(SESSION)
        data = serialize_message(self._session)
        self._thread.put(name, STRING, data, time.time_ns(), _recorded_qos(LATCHED_QOS))

    # -- what is heard ----------------------------------------------------------------------

    def _look(self) -> None:
        """Subscribe to topics that have a publisher by now; tell the session once all have."""
        if not self._waited_for and self._announced is None:
            self._announced = self.create_publisher(String, SESSION, LATCHED_QOS)
            self._announced.publish(self._session)
        for source in [s for s in self._sources if s.qos is None]:
            infos = self.get_publishers_info_by_topic(source.topic)
            if offered := [i.qos_profile for i in infos if i.topic_type == source.kind]:
                self._subscribe(source, offered)
                self._waited_for.discard(source.topic)

    def _subscribe(self, source: _Source, offered: list[QoSProfile]) -> None:
        source.qos = _recorded_qos(offered[0])
        reliable = all(o.reliability == ReliabilityPolicy.RELIABLE for o in offered)
        latched = all(o.durability == DurabilityPolicy.TRANSIENT_LOCAL for o in offered)
        qos = QoSProfile(
            depth=IMAGE_DEPTH if source.is_image else DEPTH,
            reliability=(ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT),
            durability=(DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE),
        )
        package, _, name = source.kind.split("/")
        message_type = getattr(importlib.import_module(f"{package}.msg"), name)
        take = partial(self._take, source)
        subscription = self.create_subscription(
            message_type, source.topic, lambda message, info: take(message, info), qos, raw=True
        )
        self._heard.append((source, subscription))

    def _take(self, source: _Source, message: bytes, info: dict) -> None:
        self._count_lost(source, info["publication_sequence_number"])
        self._dataset.put(source.topic, source.kind, message)
        if self._thread is None:
            return
        # When it reached this process, not when Python came to it.
        stamp = info["received_timestamp"] or time.time_ns()
        self._thread.put(
            source.name,
            source.written_kind,
            message,
            stamp,
            source.qos,
            source.encode,
            source.is_image,
        )

    def _count_lost(self, source: _Source, number: int) -> None:
        """Count what DDS lost on its way, by the gaps in the numbers of a lone publisher."""
        gap, before, source.number = number - source.number - 1, source.number, number
        if before and gap > 0 and source.is_alone:
            self._lost[source.topic] += gap

    # -- reports ----------------------------------------------------------------------------

    def _watch(self) -> None:
        """Tell once of a bag that cannot be written any more, and listen no longer then."""
        for source, _ in self._heard:
            alone = source.topic not in GLOBAL and self.count_publishers(source.topic) == 1
            source.is_alone = alone
        self._dataset.tell()
        thread = self._thread
        if thread is None or self._has_failed:
            return
        if thread.error:
            self._has_failed = True
            self.get_logger().error(
                f"bag: expected room to write, found: {thread.error}; the bag ends here, the "
                "session goes on without it"
            )
            if not self._dataset.is_on:
                self._stop_listening()
        elif thread.dropped or self._lost:
            self.get_logger().warning(
                f"bag: {self._missing()}",
                throttle_duration_sec=30.0,
            )
        if thread.refused:
            self.get_logger().warning(thread.refusal, throttle_duration_sec=30.0)

    def _stop_listening(self) -> None:
        self._look_timer.cancel()
        for _, subscription in self._heard:
            self.destroy_subscription(subscription)
        self._heard.clear()

    def status(self):
        """Report what is in the bag, and what is not."""
        thread = self._thread
        if thread is None:
            return DiagnosticStatus.OK, "the session is described", self._dataset.status()
        self.counts["written"] = thread.written
        self.refused = thread.refused
        values = {
            "dropped": str(thread.dropped),
            "lost": str(self._lost.total()),
            "bag_mb": f"{thread.size / 1e6:.1f}",
            "waiting_mb": f"{thread.waiting / 1e6:.1f}",
        } | self._dataset.status()
        if thread.error:
            return DiagnosticStatus.ERROR, f"the bag ended: {thread.error}", values
        if self._waited_for:
            return DiagnosticStatus.OK, f"waiting for {', '.join(sorted(self._waited_for))}", values
        if thread.dropped or self._lost or thread.refused:
            return DiagnosticStatus.WARN, "messages are missing in the bag", values
        return DiagnosticStatus.OK, "recording", values

    def _missing(self) -> str:
        """Return how many messages the bag lacks, and of which topics DDS lost some."""
        count = self._thread.dropped + self._lost.total()
        topics = ", ".join(f"{topic} {lost}" for topic, lost in self._lost.items())
        return f"{count} missing" + (f" (lost on the way: {topics})" if topics else "")

    def close(self) -> None:
        """Write what has come, and close the bag and the dataset."""
        begun = time.monotonic()
        try:
            self._drain(begun + DRAIN_S)
        finally:
            if self._thread is not None:
                self._thread.close(begun + CLOSE_S - time.monotonic())
                print(f"recorder: {self._thread.written} messages written, {self._missing()}")
            self._dataset.close()

    def _drain(self, end: float) -> None:
        """Take what is in DDS, and what still comes."""
        heard_at = time.monotonic()
        while time.monotonic() < min(heard_at + QUIET_S, end):
            for source, subscription in self._heard:
                with subscription.handle:
                    while taken := subscription.handle.take_message(subscription.msg_type, True):
                        self._take(source, *taken)
                        heard_at = time.monotonic()
            time.sleep(0.01)


def _image_source(node: PipelineNode, camera: str, transport: str) -> _Source:
    topic = image_topic(camera)
    name = node.resolve_topic_name(topic)
    if transport == "compressed":
        return _Source(topic, IMAGE, name, IMAGE)
    return _Source(f"{camera}/image_raw", RAW_IMAGE, name, IMAGE, _to_png)


def _to_png(raw: bytes) -> bytes:
    try:
        image = deserialize_message(raw, Image)
    except Exception as error:  # rclpy has an error of its own for what does not deserialise
        raise ValueError(" ".join(str(error).split())) from None
    return serialize_message(to_png_message(image))


def _recorded_qos(offered: QoSProfile) -> Qos:
    """Return a publisher's quality of service as a bag tells it."""
    times = (offered.deadline, offered.lifespan, offered.liveliness_lease_duration)
    deadline, lifespan, lease = (QosTime(*divmod(t.nanoseconds, 1_000_000_000)) for t in times)
    return Qos(
        QosHistory(int(offered.history)),
        offered.depth,
        QosReliability(int(offered.reliability)),
        QosDurability(int(offered.durability)),
        deadline,
        lifespan,
        QosLiveliness(int(offered.liveliness)),
        lease,
        offered.avoid_ros_namespace_conventions,
    )


def main(args=None) -> None:
    """Entry point of the executable."""
    run(RecorderNode, args)


if __name__ == "__main__":
    main()
