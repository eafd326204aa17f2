"""Read a rosbag2 bag (MCAP or SQLite), whole or cut off."""

import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from rosbags.interfaces import Connection, MessageDefinitionFormat, Qos
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.typesys import TypesysError, get_types_from_idl, get_types_from_msg

from residual_smolvla_ros.errors import BagError
from residual_smolvla_ros.recording import cdr
from residual_smolvla_ros.recording.bag_writer import TRUNCATED, typestore
from residual_smolvla_ros.recording.mcap_end import MendedFile, is_closed, whole_part

FILES = (".mcap", ".db3")
SESSION = "session"
# Of all of ROS, whatever the namespace of a pipeline.
GLOBAL = ("/clock", "/diagnostics", "/parameter_events", "/rosout", "/tf", "/tf_static")
# What rosbags raises on files that are not what their name says.
_BAD_FILE = (ReaderError, ValueError, TypeError, LookupError, OSError, sqlite3.Error)


@dataclass(frozen=True)
class Message:
    """A message as ROS 2 serialised it (CDR); `stamp` is its log time in ns."""

    topic: str
    kind: str
    data: bytes
    stamp: int


class Bag:
    """A bag to read: its folder, or its .mcap or .db3 file.

    `topics` maps a topic to its kind, `counts` to its number of messages, `qos` to what its
    publisher offered, if the bag says so. `truncated` says why the bag ends early, "" if it is
    whole. `start` and `end` are the first and last log time in ns. Names below the namespace of
    the topic `session` are relative to it, as a pipeline's nodes know them; where there is no
    such topic, names are as they stand in the bag.
    """

    def __init__(self, path: Path):
        """Raise BagError if there is no bag at `path`, or an empty one."""
        self.path = Path(path)
        self.truncated = ""
        source = self._source()
        try:
            self._reader = Reader(source)
            self._reader.open()
        except _BAD_FILE as error:
            raise self._error(f"expected a rosbag2 bag, found {_line(error)}") from None
        if not self._reader.message_count:
            self.close()
            raise self._error("expected messages, found an empty bag")
        self.namespace = self._find_namespace()
        self._connections: dict[str, Connection] = {}
        self.counts: dict[str, int] = {}
        self._collect()
        custom = self._reader.storage.metadata.custom or {}
        self.truncated = self.truncated or custom.get(TRUNCATED, "")
        self.topics = {name: c.msgtype for name, c in self._connections.items()}
        self.start, self.end = self._reader.start_time, self._reader.end_time - 1

    def messages(self, topics: Collection[str] | None = None) -> Iterator[Message]:
        """Return an iterator over the messages of some topics (all by default) by log time.

        Raises BagError if a topic is missing or its message definition is not that of ROS 2
        Jazzy, and while reading where the file is damaged.
        """
        names = set(self.topics if topics is None else topics)
        if missing := sorted(names - self.topics.keys()):
            raise self._error(
                f"expected the topics {', '.join(missing)}, found {', '.join(sorted(self.topics))}"
            )
        for name in sorted(names):
            self._check_definition(self._connections[name])
        chosen = [c for c in self._reader.connections if self._name(c) in names]
        return self._read(chosen) if chosen else iter(())

    def decode(self, message: Message):
        """Return an object with the message's fields, arrays as numpy arrays.

        Raises BagError if the bytes are not such a message.
        """
        try:
            return cdr.decode(message.kind, message.data)
        except BagError as error:
            raise self._error(f"{message.topic}: {error}") from None

    @property
    def qos(self) -> dict[str, Qos | None]:
        """What each topic's publisher offered, None where the bag does not say."""
        return {
            name: next(iter(c.ext.offered_qos_profiles), None)
            for name, c in self._connections.items()
        }

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def __enter__(self) -> "Bag":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _source(self) -> Path | MendedFile:
        """Return what to give to rosbags, and say if it is cut off."""
        path = self.path
        if not path.exists():
            raise self._error("expected a bag, found no such file or folder")
        if path.is_file() and path.suffix not in FILES:
            raise self._error(f"expected a folder or a file {' or '.join(FILES)}, found a file")
        files = [path] if path.is_file() else sorted(f for f in path.iterdir() if f.suffix in FILES)
        has_metadata = (path / "metadata.yaml").is_file()
        if not files and not list(path.glob("*.zstd")):
            raise self._error("expected a bag, found a folder without one")
        cut = [f for f in files if f.suffix == ".mcap" and not is_closed(f)]
        if path.is_dir() and len(files) > 1 and (cut or not has_metadata):
            found = f"{cut[0].name} cut off" if cut else "no metadata.yaml"
            raise self._error(f"expected whole files and metadata.yaml, found {found}")
        if not cut:
            return path if has_metadata or path.is_file() else files[0]
        length, size = whole_part(files[0]), files[0].stat().st_size
        if not length:
            raise self._error(f"expected an MCAP file, found {size} other bytes")
        self.truncated = f"{files[0].name} was not closed: whole up to byte {length} of {size}"
        return MendedFile(files[0], length)

    def _collect(self) -> None:
        for connection in self._reader.connections:
            name = self._name(connection)
            known = self._connections.setdefault(name, connection)
            self.counts[name] = self.counts.get(name, 0) + connection.msgcount
            if known.msgtype != connection.msgtype:
                self.close()
                raise self._error(
                    f"{connection.topic}: expected one type of message, found {known.msgtype} "
                    f"and {connection.msgtype}"
                )

    def _find_namespace(self) -> str:
        names = [c.topic for c in self._reader.connections if c.msgtype == "std_msgs/msg/String"]
        full = [name for name in names if name.startswith("/") and name.endswith(f"/{SESSION}")]
        return min(full, key=len, default="").removesuffix(SESSION)

    def _name(self, connection: Connection) -> str:
        name = connection.topic
        return name if name in GLOBAL else name.removeprefix(self.namespace)

    def _check_definition(self, connection: Connection) -> None:
        """Refuse a message whose fields are not those of the type of that name in ROS 2 Jazzy.

        What Jazzy does not have, and what the bag does not define, cannot be compared.
        """
        store, kind, text = typestore(), connection.msgtype, connection.msgdef.data
        if kind not in store.fielddefs or connection.msgdef.format == MessageDefinitionFormat.NONE:
            return
        is_idl = connection.msgdef.format == MessageDefinitionFormat.IDL
        try:
            types = get_types_from_idl(text) if is_idl else get_types_from_msg(text, kind)
        except TypesysError as error:
            raise self._error(
                f"{connection.topic}: expected the definition of {kind}, found {_line(error)}"
            ) from None
        for name in (n for n in types if n in store.fielddefs):
            ours, theirs = ([f[0] for f in t[name][1]] for t in (store.fielddefs, types))
            if list(store.fielddefs[name][1]) != list(types[name][1]):
                raise self._error(
                    f"{connection.topic}: expected {name} as in ROS 2 Jazzy, with {ours}, "
                    f"found {theirs}, or other types"
                )

    def _read(self, connections: list[Connection]) -> Iterator[Message]:
        try:
            for connection, stamp, data in self._reader.messages(connections):
                yield Message(self._name(connection), connection.msgtype, bytes(data), stamp)
        except _BAD_FILE as error:
            raise self._error(f"expected whole messages, found {_line(error)}") from None

    def _error(self, text: str) -> BagError:
        return BagError(f"bag {self.path}: {text}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def open_bag(path: str, truncated: str) -> Bag:
    """Return a bag; raise BagError where it is cut off and `truncated` is "refuse"."""
    bag = Bag(Path(path).expanduser())
    if bag.truncated and truncated == "refuse":
        bag.close()
        raise BagError(
            f"bag {bag.path}: expected a whole bag, found {bag.truncated}; truncated:=allow takes "
            "it up to there"
        )
    return bag
