"""Write a rosbag2 bag (MCAP) of messages that are serialised already."""

import os
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml
from mcap.writer import CompressionType, Writer
from rosbags.interfaces import Qos
from rosbags.rosbag2.metadata import dump_qos_v9
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from residual_smolvla_ros.errors import BagError
from residual_smolvla_ros.recording.mcap_end import end_bytes

VERSION = 9  # of rosbag2's metadata.yaml, as of Jazzy
CHUNK_BYTES = 1_000_000
FLUSH_S = 0.8  # with what waits for its turn, a SIGKILL loses a second at most
# In metadata.yaml's custom data: why the bag ends before its session.
TRUNCATED = "truncated"


@cache
def typestore() -> Typestore:
    """Return the message definitions of ROS 2 Jazzy."""
    return get_typestore(Stores.ROS2_JAZZY)


@dataclass
class _Topic:
    kind: str
    channel: int
    qos: list
    count: int = 0


@dataclass
class _Settled:
    """What the file holds for sure: its length, and how many messages of each topic."""

    length: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    newest: int = 0


class BagWriter:
    """A bag that grows: `<folder>/<name>_0.mcap`, and metadata.yaml once it is closed.

    An OSError, as of a full disk, closes the bag: what was written before stays readable.
    """

    def __init__(self, folder: Path):
        """Raise BagError if the folder exists with files."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BagError(f"bag: expected a new or empty folder, found files in {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.file = folder / f"{folder.name}_0.mcap"
        self._stream = _Unbuffered(self.file)
        self._writer = Writer(self._stream, CHUNK_BYTES, CompressionType.ZSTD)
        self._topics: dict[str, _Topic] = {}
        self._schemas: dict[str, int] = {}
        self._oldest = self._newest = 0
        self._settled = _Settled()
        self._flushed = time.monotonic()
        self.closed = False
        self._guard(self._writer.start, profile="ros2")

    def write(self, topic: str, kind: str, data: bytes, stamp: int, qos: Qos | None = None) -> None:
        """Add a message of a kind such as sensor_msgs/msg/JointState.

        `data` is CDR as ROS 2 serialised it, `stamp` the log time in ns by the wall clock, `qos`
        that of the topic's publisher: the first message of a topic tells it. A log time before
        the last one's becomes the last one's: readers rely on the order where there is no index.
        """
        known = self._topics.get(topic)
        if known is None:
            known = self._guard(self._add_topic, topic, kind, qos)
        self._newest = max(stamp, self._newest)
        self._oldest = self._oldest or self._newest
        known.count += 1
        self._guard(self._writer.add_message, known.channel, self._newest, data, self._newest)
        if not self._settled.counts:
            self.flush()  # the session's description comes first: no bag is without it
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Flush if the last time is too long ago: to be called where no message comes."""
        if time.monotonic() - self._flushed >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what is still in memory; to be called at least once a second."""
        self._flushed = time.monotonic()
        self._guard(self._writer.flush)

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        return self._stream.tell()

    def close(self) -> None:
        """Write the index and metadata.yaml."""
        if self.closed:
            return
        self._guard(self._finish)
        self.closed = True
        self._stream.close()
        self._write_metadata(self._information())

    def _finish(self) -> None:
        self._writer.flush()
        # rosbag2 reads it where metadata.yaml is missing.
        text = _to_yaml(self._information()["rosbag2_bagfile_information"])
        self._writer.add_metadata("rosbag2", {"serialized_metadata": text})
        self._writer.finish()

    def _add_topic(self, topic: str, kind: str, qos: Qos | None) -> _Topic:
        if kind not in self._schemas:
            text, _ = typestore().generate_msgdef(kind, ros_version=2)
            self._schemas[kind] = self._writer.register_schema(kind, "ros2msg", text.encode())
        profiles = dump_qos_v9([qos] if qos else [])
        offered = {"offered_qos_profiles": _to_yaml(profiles) if profiles else ""}
        channel = self._writer.register_channel(topic, "cdr", self._schemas[kind], offered)
        self._topics[topic] = _Topic(kind, channel, profiles)
        return self._topics[topic]

    def _guard(self, call, *args, **kwargs):
        """Call a writing function; on an OSError close the bag behind the last whole chunk."""
        try:
            result = call(*args, **kwargs)
        except OSError as error:
            self._abandon(error)
            raise
        length = self._stream.tell()
        if length != self._settled.length:
            counts = {name: topic.count for name, topic in self._topics.items()}
            self._settled = _Settled(length, counts, self._newest)
        return result

    def _abandon(self, error: OSError) -> None:
        settled, self.closed = self._settled, True
        for name, topic in self._topics.items():
            topic.count = settled.counts.get(name, 0)
        self._newest = settled.newest
        try:
            # What the broken chunk took is room enough for the end, as a rule.
            self._stream.truncate(settled.length)
            self._stream.write(end_bytes())
            self._write_metadata(self._information({TRUNCATED: str(error.strerror)}))
        except OSError:
            pass  # the bag reads all the same, as one that was cut
        finally:
            self._stream.close()

    def _write_metadata(self, information: dict) -> None:
        file = self._folder / "metadata.yaml"
        part = file.with_suffix(".part")
        try:
            part.write_text(_to_yaml(information) + "\n")
            part.replace(file)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def _information(self, custom: dict[str, str] | None = None) -> dict:
        """Return what metadata.yaml holds."""
        count = sum(topic.count for topic in self._topics.values())
        start = {"nanoseconds_since_epoch": self._oldest}
        duration = {"nanoseconds": self._newest - self._oldest}
        file = {
            "path": self.file.name,
            "starting_time": start,
            "duration": duration,
            "message_count": count,
        }
        topics = [
            {
                "topic_metadata": {
                    "name": name,
                    "type": topic.kind,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": topic.qos,
                    "type_description_hash": typestore().hash_rihs01(topic.kind),
                },
                "message_count": topic.count,
            }
            for name, topic in self._topics.items()
        ]
        information = {
            "version": VERSION,
            "storage_identifier": "mcap",
            "relative_file_paths": [self.file.name],
            "duration": duration,
            "starting_time": start,
            "message_count": count,
            "topics_with_message_count": topics,
            "compression_format": "",
            "compression_mode": "",
            "files": [file],
            "custom_data": custom,
            "ros_distro": "jazzy",
        }
        return {"rosbag2_bagfile_information": information}


class _Unbuffered:
    """A file whose length is what has been written: `mcap` writes a chunk at a time."""

    def __init__(self, path: Path):
        self._file = path.open("xb", buffering=0)
        self._length = 0

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest:
            count = self._file.write(rest)
            self._length += count
            rest = rest[count:]
        return len(data)

    def tell(self) -> int:
        return self._length

    def flush(self) -> None:
        """Nothing waits in memory."""

    def truncate(self, length: int) -> None:
        os.ftruncate(self._file.fileno(), length)
        self._file.seek(length)
        self._length = length

    def close(self) -> None:
        self._file.close()


class _Dumper(yaml.SafeDumper):
    """Writes parts that are used twice twice, for readers that know no anchors."""

    def ignore_aliases(self, data) -> bool:
        return True


def _to_yaml(value) -> str:
    return yaml.dump(value, Dumper=_Dumper).strip()
