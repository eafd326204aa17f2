"""Bags: what is written reads back, by this package's reader and by others; what is cut, too."""

import resource
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability
from rosbags.interfaces import QosTime as Time
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from residual_smolvla_ros.errors import BagError
from residual_smolvla_ros.recording.bag_reader import Bag, Message
from residual_smolvla_ros.recording.bag_writer import BagWriter, typestore

JOINTS = "sensor_msgs/msg/JointState"
STRING, BLOB = "std_msgs/msg/String", "std_msgs/msg/UInt8MultiArray"
LATCHED = Qos(
    QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
    Time(0, 0), Time(0, 0), QosLiveliness.AUTOMATIC, Time(0, 0), False,
)  # fmt: skip


def text(words: str) -> bytes:
    return bytes(typestore().serialize_cdr(typestore().types[STRING](data=words), STRING))


def blob(values: np.ndarray) -> bytes:
    types = typestore().types
    layout = types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return bytes(typestore().serialize_cdr(types[BLOB](layout=layout, data=values), BLOB))


def some_messages(count: int = 40) -> list[Message]:
    """Random bytes, which no compression makes smaller, after one latched line."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 1000), dtype=np.uint8)
    first = Message("task", STRING, text("Lift the red cube"), 1_000)
    return [first, *(Message("step", BLOB, blob(n), 2_000 + i) for i, n in enumerate(noise))]


def write(folder: Path, messages: list[Message], flush_every: int = 10) -> BagWriter:
    writer = BagWriter(folder)
    for i, message in enumerate(messages):
        qos = LATCHED if message.topic == "task" else None
        writer.write(message.topic, message.kind, message.data, message.stamp, qos)
        if i % flush_every == flush_every - 1:
            writer.flush()
    return writer


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    return some_messages()


@pytest.fixture
def bag(tmp_path, messages) -> Path:
    write(tmp_path / "bag", messages).close()
    return tmp_path / "bag"


def test_what_is_written_reads_back(bag, messages):
    with Bag(bag) as opened:
        assert list(opened.messages()) == messages
        assert list(opened.messages(["task"])) == messages[:1]
        assert opened.decode(messages[0]).data == "Lift the red cube"
        assert opened.topics == {"task": STRING, "step": BLOB}
        assert opened.counts == {"task": 1, "step": 40}
        assert opened.qos == {"task": LATCHED, "step": None}
        assert (opened.start, opened.end, opened.truncated) == (1_000, 2_039, "")


def test_other_readers_of_bags_read_it(bag, messages):
    expected = [(m.topic, m.stamp, m.data) for m in messages]
    with Reader(bag) as reader:
        found = [(c.topic, stamp, data) for c, stamp, data in reader.messages(reader.connections)]
        hashes = {c.msgtype: c.digest for c in reader.connections}
    assert found == expected
    assert hashes[STRING] == typestore().hash_rihs01(STRING)
    with (bag / "bag_0.mcap").open("rb") as stream:
        found = list(make_reader(stream, validate_crcs=True).iter_messages())
    assert [(c.topic, m.log_time, m.data) for _, c, m in found] == expected


@pytest.mark.parametrize("size", [15_000, 25_000, 39_000, -1, -40])
def test_a_bag_cut_at_any_byte_reads_up_to_its_last_whole_chunk(bag, messages, size):
    """As a SIGKILL leaves it: no end, no metadata.yaml."""
    file = bag / "bag_0.mcap"
    (bag / "metadata.yaml").unlink()
    content = file.read_bytes()
    file.write_bytes(content[:size])
    with Bag(bag) as opened:
        found = list(opened.messages())
        assert "bag_0.mcap was not closed" in opened.truncated
    assert found == messages[: len(found)]
    # Chunks of ten messages of a kilobyte.
    assert len(found) == (size // 10_500 * 10 if size > 0 else 41)


def test_a_writer_that_is_killed_loses_what_it_had_not_flushed_only(tmp_path, messages):
    write(tmp_path / "bag", messages)  # never closed
    with Bag(tmp_path / "bag") as opened:
        assert list(opened.messages()) == messages[:40]
        assert opened.truncated


def test_on_a_full_disk_the_bag_is_closed_behind_its_last_whole_chunk(tmp_path, messages):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (25_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write(tmp_path / "bag", messages)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with Bag(tmp_path / "bag") as opened:
        assert list(opened.messages()) == messages[:20]
        assert opened.truncated == "File too large"
    with Reader(tmp_path / "bag") as reader:
        assert reader.message_count == len(list(reader.messages(reader.connections))) == 20


def test_a_log_time_never_goes_back(tmp_path):
    """Nothing but their order sorts the messages of a bag without an index."""
    late = [Message("task", STRING, text(word), stamp) for word, stamp in [("a", 9), ("b", 7)]]
    write(tmp_path / "bag", late, flush_every=1)
    with Bag(tmp_path / "bag") as opened:
        assert [m.stamp for m in opened.messages()] == [9, 9]


def test_a_folder_with_files_is_not_written_over(bag):
    with pytest.raises(BagError, match="expected a new or empty folder, found files"):
        BagWriter(bag)


def write_sqlite(folder: Path, definition: str | None = None) -> Path:
    with Writer(folder, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        own = {"msgdef": definition, "rihs01": "RIHS01_" + 64 * "0"} if definition else {}
        connection = writer.add_connection("task", STRING, typestore=typestore(), **own)
        writer.write(connection, 5, text("Lift"))
    return folder


def test_an_sqlite_bag_reads(tmp_path):
    with Bag(write_sqlite(tmp_path / "bag")) as opened:
        assert list(opened.messages()) == [Message("task", STRING, text("Lift"), 5)]


def test_a_message_definition_that_differs_is_named(tmp_path):
    bag = write_sqlite(tmp_path / "bag", "wstring data\nint32 count\n")
    expected = r"task: .* \['data'\], found \['data', 'count'\]"
    with Bag(bag) as opened, pytest.raises(BagError, match=expected):
        opened.messages(["task"])


def test_missing_topics_are_named(bag):
    with Bag(bag) as opened, pytest.raises(BagError, match="topics reward, found step, task"):
        opened.messages(["reward", "task"])


def write_text_file(folder: Path) -> Path:
    (folder / "bag.mcap").write_text("not a bag")
    return folder / "bag.mcap"


def write_empty(folder: Path) -> Path:
    BagWriter(folder / "bag").close()
    return folder / "bag"


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda folder: folder / "none", "found no such file or folder"),
        (lambda folder: folder, "found a folder without one"),
        (write_text_file, "expected an MCAP file, found 9 other bytes"),
        (write_empty, "expected messages, found an empty bag"),
    ],
)
def test_what_is_no_bag_is_refused_with_one_line(tmp_path, make, found):
    with pytest.raises(BagError, match=found) as error:
        Bag(make(tmp_path))
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_such_message_are_refused(bag):
    with Bag(bag) as opened, pytest.raises(BagError, match="task: expected a std_msgs/msg/String"):
        opened.decode(Message("task", STRING, b"\0\1\0\0\xff\0\0\0", 0))


def test_bytes_that_rclpy_leaves_behind_empty_arrays_are_no_other_message(bag):
    header = typestore().types["std_msgs/msg/Header"](
        stamp=typestore().types["builtin_interfaces/msg/Time"](sec=1, nanosec=0), frame_id=""
    )
    none = np.empty(0)
    state = typestore().types[JOINTS](header, ["pan"], np.array([0.5]), none, none)
    data = bytes(typestore().serialize_cdr(state, JOINTS))
    with Bag(bag) as opened:
        decoded = opened.decode(Message("joint_states", JOINTS, data + b"rest" * 2, 0))
        assert (decoded.name, decoded.position.tolist()) == (["pan"], [0.5])
        with pytest.raises(BagError, match="CDR message size mismatch"):
            opened.decode(Message("joint_states", JOINTS, data + b"rest" * 3, 0))


def test_topics_below_the_namespace_of_a_session_go_by_their_relative_names(tmp_path):
    names = ["/arm/session", "/arm/policy/step", "/diagnostics", "/other/task"]
    write(tmp_path / "bag", [Message(n, STRING, text(n), i) for i, n in enumerate(names)]).close()
    with Bag(tmp_path / "bag") as opened:
        assert list(opened.topics) == ["session", "policy/step", "/diagnostics", "/other/task"]
        assert [m.topic for m in opened.messages(["policy/step"])] == ["policy/step"]
