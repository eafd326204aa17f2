"""What of a bag is played into a graph: topics, under which names, with which joints."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rosbags.interfaces import Qos

from residual_smolvla_ros.arguments import ArgumentError
from residual_smolvla_ros.errors import BagError
from residual_smolvla_ros.recording.bag_reader import Bag

STATES, JOINTS = "joint_states", "sensor_msgs/msg/JointState"


@dataclass(frozen=True)
class Track:
    """A topic of a bag, and the name that it is played under."""

    topic: str
    kind: str
    name: str
    qos: Qos | None


def is_states(track: Track) -> bool:
    """Tell whether a track is played as joint_states."""
    return track.name.removeprefix("/") == STATES and track.kind == JOINTS


def choose(
    bag: Bag, topics: Sequence[str], remaps: Mapping[str, str], answers: str = ""
) -> list[Track]:
    """Return the tracks to play: all by default, but that of the `answers` that are awaited.

    Raises BagError for topics that the bag lacks or whose messages are not known here, and
    ArgumentError where two would get the same name.
    """
    if missing := [name for name in (*topics, *remaps) if name not in bag.topics]:
        raise BagError(
            f"bag {bag.path}: expected the topics {', '.join(dict.fromkeys(missing))}, "
            f"found {', '.join(sorted(bag.topics))}"
        )
    qos, tracks = bag.qos, {}
    for topic in topics or bag.topics:
        kind, name = bag.topics[topic], remaps.get(topic, topic)
        if name == answers:
            if topic in topics:
                raise ArgumentError(f"topics: expected all but the answers, found {topic}")
            continue
        if not _is_known(kind):
            if topic in topics:
                raise BagError(
                    f"bag {bag.path}: {topic}: expected messages of an installed package, "
                    f"found {kind}"
                )
            continue
        if name in tracks:
            raise ArgumentError(
                f"remap: expected a name each, found {name} for {tracks[name].topic} and {topic}"
            )
        tracks[name] = Track(topic, kind, name, qos[topic])
    if not tracks:
        raise BagError(f"bag {bag.path}: expected topics to play, found none")
    return list(tracks.values())


def check_joints(bag: Bag, tracks: Sequence[Track], joint_names: Sequence[str]) -> None:
    """Raise BagError where joint_states has other joints than `joint_names`."""
    for track in tracks:
        if not is_states(track):
            continue
        first = next(bag.messages([track.topic]), None)
        if first is None:
            continue
        found = list(bag.decode(first).name)
        if not set(joint_names) <= set(found):
            raise BagError(
                f"bag {bag.path}: {track.topic}: expected joints {list(joint_names)}, found "
                f"{found}; joint_names:=any plays them as they are"
            )


def _is_known(kind: str) -> bool:
    return importlib.util.find_spec(kind.partition("/")[0]) is not None
