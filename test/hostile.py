"""Messages that nobody should send: broken, huge, not finite, of other joints, old, ahead."""

import array
import json
import random
from collections.abc import Iterator

import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, UInt8MultiArray
from test_fuzz_records import BLOBS, SCHEMAS, join, split
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from residual_smolvla_ros.nodes.common import to_message
from residual_smolvla_ros.robots.units import JOINT_NAMES

MEGABYTES = 4_000_000
NAMES = list(JOINT_NAMES)
NAN, INF = float("nan"), float("inf")


def blobs() -> list[bytes]:
    """Records that are none of any kind, whatever their kind was."""
    rng, made = random.Random(0), [b"", b"\0" * 8, b"\xff" * 64, bytes(MEGABYTES)]
    for schema in SCHEMAS:
        blob = BLOBS[schema.kind]
        header, data = split(blob)
        text = header["__metadata__"]
        made += [blob[: rng.randrange(len(blob))], blob + b"\0", blob[8:], blob + bytes(MEGABYTES)]
        key = next(iter(schema.metadata))
        for change in ({"kind": f"{schema.kind}_v2"}, {key: str(10**400)}, {key: None}):
            altered = {k: v for k, v in (text | change).items() if v is not None}
            if key == "event" and "kind" not in change:
                continue  # which may be any text
            made.append(join(json.dumps(header | {"__metadata__": altered}).encode(), data))
        if data:
            made.append(blob[: -len(data)] + np.full(len(data) // 4, NAN, np.float32).tobytes())
    return made


def joint_states() -> Iterator[JointState]:
    """Messages about other joints, in wrong numbers, of wrong numbers, old and far ahead."""
    values = (0.0, NAN, INF, -INF, 1e308, -1e308, 5e-324)
    for value in values:
        made = JointState(
            name=NAMES, position=[value] * 6, velocity=[value] * 6, effort=[value] * 6
        )
        for seconds in (0, 1, -(2**31), 2**31 - 1):
            made.header.stamp.sec = seconds
            yield made
    yield JointState()
    yield JointState(name=NAMES)
    for names in (NAMES[:-1], [*NAMES[:-1], "tail"], NAMES * 9, [NAMES[0]] * 6, ["\0", "", "ä"]):
        yield JointState(name=names, position=[0.0] * len(names))
        yield JointState(name=names, position=[0.0] * 3, velocity=[0.0], effort=[0.0] * 99)
    yield JointState(name=NAMES, position=array.array("d", [0.0]) * (MEGABYTES // 8))


def trajectories() -> Iterator[JointTrajectory]:
    """The same as commands, with no point, one and several."""
    for message in joint_states():
        points = [JointTrajectoryPoint(positions=message.position, velocities=message.velocity)]
        for several in ([], points, points * 3):
            made = JointTrajectory(joint_names=message.name, points=several)
            made.header.stamp = message.header.stamp
            yield made


def images() -> Iterator[Image]:
    """Images whose sizes, encoding and data do not fit together."""
    yield Image()
    for width, height, encoding, size in (
        (4, 4, "rgb8", 3), (0, 0, "rgb8", 0), (0, 4, "mono8", 0), (4, 4, "rgb9", 48),
        (2**32 - 1, 2**32 - 1, "rgb8", 48), (0, 0, "", 0), (4, 4, "bayer_rggb16", 7),
        (4, 4, "rgb8", MEGABYTES),
    ):  # fmt: skip
        made = Image(width=width, height=height, encoding=encoding, step=min(3 * width, 2**32 - 1))
        made.data = array.array("B", bytes(size))
        yield made


def poses() -> Iterator[PoseStamped]:
    """Poses that are nowhere."""
    for value in (NAN, INF, 1e308):
        made = PoseStamped()
        made.header.frame_id, made.pose.position.x = "base_link", value
        yield made


HOSTILE = {
    JointState: joint_states,
    JointTrajectory: trajectories,
    Image: images,
    PoseStamped: poses,
    Bool: lambda: [Bool(data=True), Bool(data=True), Bool(data=False)],
    UInt8MultiArray: lambda: map(to_message, blobs()),
}
