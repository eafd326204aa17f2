"""The messages of a session that nobody played: small, and each number known."""

import dataclasses
import hashlib
from pathlib import Path

import cv2
import numpy as np

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.learning.schedule import TRAIN, EpisodePlan
from residual_smolvla_ros.recording.bag_reader import Message
from residual_smolvla_ros.recording.bag_writer import BagWriter, typestore
from residual_smolvla_ros.recording.session import IMAGE, JOINTS, RECORD, SESSION, STRING, Session
from residual_smolvla_ros.records import DISCARD, EPISODE_EVENT, REWARD, STEP, SUCCESS, pack
from residual_smolvla_ros.robots.units import JOINT_NAMES

PERIOD = 33_333_333
SIZE = 64  # the least that LeRobot's video codec takes


def session(**policy) -> Session:
    """Return the description of a session in lockstep simulation with one camera."""
    weights = (DEMO_CHECKPOINT / "model.safetensors").read_bytes()
    parameters = {"cameras": ["front"], "task": "Lift the red cube", "rate_hz": 30.0} | policy
    nodes = [("policy", parameters), ("reward", {"executed_commands": False})]
    return Session(
        mode="finetune",
        arguments={},
        nodes=[
            {"name": n, "executable": n, "parameters": p, "parameter_files": [], "remappings": []}
            for n, p in nodes
        ],
        parameter_files={},
        versions={},
        base_checkpoint={
            "path": str(DEMO_CHECKPOINT), "sha256": hashlib.sha256(weights).hexdigest()
        },
        resumed=False,
        start_checkpoint="",
    )  # fmt: skip


def serialise(kind: str, **fields) -> bytes:
    """Return a message in CDR."""
    return bytes(typestore().serialize_cdr(typestore().types[kind](**fields), kind))


def record(blob: bytes) -> bytes:
    """Return a packed record as a message."""
    layout = typestore().types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return serialise(RECORD, layout=layout, data=np.frombuffer(blob, dtype=np.uint8))


def _header(stamp: int):
    types = typestore().types
    time = types["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
    return types["std_msgs/msg/Header"](stamp=time, frame_id="")


def position(stamp: int) -> np.ndarray:
    """Return where the joints are at a stamp, in rad."""
    return 0.1 * np.sin(stamp / 1e9 + np.arange(6))


def stamp_of(episode: int, tick: int) -> int:
    """Return the stamp of a step in ns."""
    return episode * 10**9 + tick * PERIOD


def image(stamp: int, shade: int) -> bytes:
    """Return a grey image as a PNG message."""
    png = cv2.imencode(".png", np.full((SIZE, SIZE, 3), shade, dtype=np.uint8))[1]
    return serialise(IMAGE, header=_header(stamp), format="rgb8; png compressed rgb8", data=png)


def event(plan: EpisodePlan, name: str, label: str, last: int, steps: int) -> bytes:
    """Return an episode/event."""
    fields = {"reason": "", "success": label == SUCCESS, "label": label, "last_stamp": last}
    return record(
        pack(EPISODE_EVENT, event=name, episode=plan.episode, plan=plan.to_json(), steps=steps,
             **fields)
    )  # fmt: skip


def episode(
    number: int, steps: int, label: str, late: bool = False, phase: str = TRAIN
) -> list[Message]:
    """Return an episode's messages; with `late` its label comes after its end.

    An image comes every other step, and its shade is the episode's number and that step's.
    """
    plan = EpisodePlan(number, phase, 0, number, steps)
    messages: list[Message] = []
    last = stamp_of(number, steps - 1)

    def add(topic: str, kind: str, data: bytes) -> None:
        messages.append(Message(topic, kind, data, stamp_of(number, 0) + len(messages)))

    def judge(tick: int, of: str) -> None:
        done = label == SUCCESS and tick == steps - 1 and (bool(of) or not late)
        fields = {"success": done, "terminated": done, "label": of, "names": (), "missing": ()}
        stamp = stamp_of(number, tick)
        tensors = {"reward": float(done) + 0.25 * tick, "terms": np.zeros(0)}
        blob = pack(REWARD, tensors, stamp=stamp, next_stamp=stamp + PERIOD, **fields)
        add("reward", RECORD, record(blob))

    add("episode/event", RECORD, event(plan, "prepare", "", 0, 0))
    for tick in range(steps):
        stamp = stamp_of(number, tick)
        if tick % 2 == 0:
            add("front/image_raw/compressed", IMAGE, image(stamp, 20 * number + tick))
        values = {"velocity": np.zeros(6), "effort": np.zeros(6)}
        joints = serialise(JOINTS, header=_header(stamp), name=list(JOINT_NAMES),
                           position=position(stamp), **values)  # fmt: skip
        add("joint_states", JOINTS, joints)
        tensors = {"features": np.zeros(2), "base": np.full(6, 0.5), "residual": np.ones(5),
                   "command": np.full(6, 10.0 + tick), "log_prob": 0.0, "value": 0.0}  # fmt: skip
        flags = {"decision": True, "final": False, "intervention": tick == 1}
        numbers = {"episode": number, "tick": tick, "weights_version": number, "token_age_ms": -1,
                   "plan_age_ms": -1}  # fmt: skip
        # Further metadata of a step, which a dataset does not need.
        more = dict.fromkeys(STEP.metadata.keys() - {*flags, *numbers, "stamp"}, "")
        blob = pack(STEP, tensors, stamp=stamp, **numbers, **flags, **more)
        add("policy/step", RECORD, record(blob))
        judge(tick, "")
    add("episode/event", RECORD, event(plan, "end", "" if late else label, last, steps))
    if late:
        add("episode/event", RECORD, event(plan, "label", label, last, steps))
        if label != DISCARD:
            judge(steps - 1, label)
    return messages


def described(*episodes: list[Message], **policy) -> list[Message]:
    """Return the messages of a session, its description first."""
    text = Message(SESSION, STRING, serialise(STRING, data=session(**policy).to_json()), 1)
    return [text, *(message for one in episodes for message in one)]


def described_with(executable: str, parameters: dict, **changes) -> Message:
    """Return the description of a session with one node more."""
    made = session()
    node = {"name": executable, "executable": executable, "parameters": parameters,
            "parameter_files": [], "remappings": []}  # fmt: skip
    others = [n for n in made.nodes if n["executable"] != executable]
    text = dataclasses.replace(made, nodes=[*others, node], **changes).to_json()
    return Message(SESSION, STRING, serialise(STRING, data=text), 1)


def by_topic(messages: list[Message], last_first: bool = False) -> list[Message]:
    """Return the messages topic after topic: none could overtake another further."""
    return sorted(messages, key=lambda message: message.topic, reverse=last_first)


def write(folder: Path, messages: list[Message]) -> Path:
    """Write the messages as a bag."""
    writer = BagWriter(folder)
    for message in messages:
        writer.write(message.topic, message.kind, message.data, message.stamp)
    writer.close()
    return folder


def without(messages: list[Message], topic: str, index: int) -> list[Message]:
    """Return the messages without one of a topic."""
    lost = [message for message in messages if message.topic == topic][index]
    return [message for message in messages if message is not lost]


def rows(report) -> dict[str, list[str]]:
    """Return the words of a report's lines by their first; of several with the same, the last."""
    return {words[0]: words[1:] for words in map(str.split, str(report).splitlines()) if words}
