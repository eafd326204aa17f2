"""Check `learner`: redo all updates of a session, and compare the weights to the bit."""

import contextlib
import dataclasses
import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from residual_smolvla_ros.errors import BagError, CheckpointError
from residual_smolvla_ros.learning.checkpoint import ResidualCheckpoint, load_checkpoint
from residual_smolvla_ros.learning.intake import SILENCE_S, Intake
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.run import LearnerRun
from residual_smolvla_ros.learning.settings import make_learner
from residual_smolvla_ros.learning.td3_learner import REPLAY, TD3Learner
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.policy.vision import read_token_shape
from residual_smolvla_ros.recording.bag_reader import Bag
from residual_smolvla_ros.recording.checks.report import Report
from residual_smolvla_ros.recording.checks.source import (
    follow,
    named,
    need,
    parameters_of,
    record_in,
)
from residual_smolvla_ros.recording.episodes import to_nanoseconds
from residual_smolvla_ros.recording.session import Session, find_base, read_session
from residual_smolvla_ros.records import (
    EPISODE_EVENT,
    REWARD,
    STEP,
    WEIGHTS,
    Record,
    unpack,
)
from residual_smolvla_ros.robots.joints import names_on_topics
from residual_smolvla_ros.robots.units import JOINT_NAMES, rad_to_lerobot

TOPICS = ("episode/event", "policy/step", "reward", "learner/weights")


def check_learner(bag: Bag, base_checkpoint: str = "", checkpoint: str = "") -> Report:
    """Return a table of the weights' versions, recorded and made anew.

    A session that went on from an earlier one needs the `checkpoint` that it began with. Raises
    ValueError with one line where the updates cannot be redone.
    """
    session = read_session(bag)
    need(bag, *TOPICS)
    if session.resumed and not checkpoint:
        first = next(_weights(bag)).metadata["version"]
        raise BagError(
            f"bag {bag.path}: expected checkpoint:=<folder>, since the session was resumed; its "
            f"first weights are version {first}"
        )
    base, is_same = find_base(session, base_checkpoint)
    report = Report()
    if not is_same:
        report.line("the base is another one than the session's")
    with tempfile.TemporaryDirectory(prefix="check-learner-") as folder:
        redone = Redone(bag, session, base, checkpoint, Path(folder) / "run")
        ours = redone.play()
    for text in redone.warnings:
        report.line(text)
    rows, report.agrees = _compare(bag, ours, redone.beside)
    report.table(("version", "tensors", "recorded against redone"), rows)
    if not report.agrees:
        report.line(_versions(session))
    return report


class Redone:
    """The updates of a session, made anew in the folder `output`."""

    def __init__(self, bag: Bag, session: Session, base: Path, checkpoint: str, output: Path):
        self._bag = bag
        parameter = parameters_of(session, "learner")
        torch.set_num_threads(parameter("torch_threads", 1))
        self._joint_names = tuple(parameter("joint_names", list(JOINT_NAMES)))
        self._topic_names = names_on_topics(parameter("ros_joint_names", ()), self._joint_names)
        self._executed = parameter("executed_commands", False)
        self._learner = make_learner(
            parameter, self._joint_names, read_token_shape(base), parameter("seed", 0)
        )
        self._silence_s = parameter("silence_s", SILENCE_S)
        self.beside = not parameter("lockstep", True) and isinstance(self._learner, TD3Learner)
        if session.resumed:
            _copy_checkpoint(checkpoint, output / "checkpoints")
        elif session.start_checkpoint:
            self._learner.load(_as_checkpoint(next(_weights(bag))))
        self._run = LearnerRun(output, self._learner, {}, session.resumed)
        self.warnings: list[str] = []

    @property
    def learner(self) -> Learner:
        """The learner, as it is by now."""
        return self._learner

    def play(self) -> dict[int, Record]:
        """Return the weights of each version."""
        made: dict[int, Record] = {}
        settings = {r.metadata["version"]: _settings(r) for r in _weights(self._bag)}

        def publish(blob: bytes) -> None:
            record = unpack(WEIGHTS, blob)
            version = record.metadata["version"]
            made.setdefault(version, record)
            # What was changed while the session ran: the next version tells what it was made with.
            self._learner.change(settings.get(version + 1, {}))

        # The bag's log time stands in for the clock: what it says of lost records counts.
        now = [self._bag.start / 1e9]
        intake = Intake(
            self._run, publish, self.warnings.append, self._executed, self.beside, lambda: now[0],
            silence_s=self._silence_s,
        )  # fmt: skip
        publish(intake.weights())
        takers = {
            "episode/event": (EPISODE_EVENT, intake.take_event),
            "policy/step": (STEP, intake.take_step),
            "reward": (REWARD, intake.take_reward),
        }
        topics = [*takers, *(["executed_command"] if self._executed else [])]
        with contextlib.closing(self._run):
            for message in follow(self._bag, topics, "learner"):
                now[0] = message.stamp / 1e9
                intake.watch()
                if message.topic in takers:
                    schema, take = takers[message.topic]
                    take(record_in(self._bag, message, schema))
                else:
                    joints = self._bag.decode(message)
                    command = rad_to_lerobot(named(joints, self._topic_names), self._joint_names)
                    intake.take_executed(to_nanoseconds(joints.header), command)
                if self.beside:
                    # All of an update at once: what it learns from was there when it began.
                    intake.learn_on()
        return made


def _weights(bag: Bag):
    for message in bag.messages(["learner/weights"]):
        yield record_in(bag, message, WEIGHTS)


def _settings(record: Record) -> dict:
    return json.loads(record.metadata["progress"]).get("settings", {})


def _as_checkpoint(record: Record) -> ResidualCheckpoint:
    return ResidualCheckpoint(
        path=Path("the session's first weights"),
        config=ResidualConfig.from_json(record.metadata["config"]),
        weights={name: torch.tensor(value) for name, value in record.tensors.items()},
        counters={},
        training={},
        run={},
    )


def _copy_checkpoint(checkpoint: str, folder: Path) -> None:
    """Copy a checkpoint to begin with, and the one that a rollback may go back to."""
    found = load_checkpoint(checkpoint)
    accepted = found.path.with_name(f"{found.counters['accepted']:06d}")
    for source in {found.path, accepted, found.path.with_name(REPLAY)}:
        if source.is_dir():
            try:
                shutil.copytree(source, folder / source.name)
            except OSError as error:
                raise CheckpointError(
                    f"checkpoint {source}: expected one to copy, found: {error}"
                ) from None


def _compare(bag: Bag, ours: dict[int, Record], beside: bool) -> tuple[list[tuple], bool]:
    rows, seen = [], set()
    for recorded in _weights(bag):
        number = recorded.metadata["version"]
        found = _difference(recorded, ours[number]) if number in ours else "not made again"
        if number not in seen or found:
            rows.append((number, len(recorded.tensors), found or "equal"))
        seen.add(number)
    newest = max(seen)
    # The session may have ended before the last update could be told.
    for number in sorted(v for v in ours.keys() - seen if v < newest):
        # Beside episodes one version may follow so soon that the one before is not told.
        rows.append((number, len(ours[number].tensors), "not recorded"))
    agrees = all(row[2] == "equal" or (beside and row[2] == "not recorded") for row in rows)
    return sorted(rows), agrees


def _difference(recorded: Record, redone: Record) -> str:
    """Return the first difference between two versions, "" where they are equal to the bit."""
    if recorded.tensors.keys() != redone.tensors.keys():
        others = sorted(recorded.tensors.keys() ^ redone.tensors.keys())
        return f"other tensors: {', '.join(others)}"
    for name, value in recorded.tensors.items():
        other = redone[name]
        if value.shape != other.shape:
            return f"{name}: shape {value.shape} against {other.shape}"
        if value.tobytes() != other.tobytes():
            apart = np.abs(value.astype(np.float64) - other)
            where = int(apart.argmax())
            return (
                f"{name}: {int((value != other).sum())} of {value.size} values differ, most "
                f"{value.flat[where]:.9g} against {other.flat[where]:.9g}"
            )
    there, here = (_told(record) for record in (recorded, redone))
    for key in sorted(there.keys() | here.keys()):
        if there.get(key) != here.get(key):
            return f"{key}: {there.get(key)} against {here.get(key)}"
    return ""


def _told(record: Record) -> dict:
    """Return configuration and progress; what an older configuration lacks has its default."""
    config = ResidualConfig.from_json(record.metadata["config"])
    return dataclasses.asdict(config) | json.loads(record.metadata["progress"])


def _versions(session: Session) -> str:
    return (
        f"the session's torch was {session.versions.get('torch') or 'unknown'}, this one is "
        f"{version('torch')}: other versions and processors sum in another order"
    )
