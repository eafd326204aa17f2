"""Check `reward`: judge a session's steps anew, by its own terms or by those of another config."""

import json
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from residual_smolvla_ros.config_file import read_parameters
from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.recording.bag_reader import Bag, Message
from residual_smolvla_ros.recording.checks.report import Comparison, Report
from residual_smolvla_ros.recording.checks.source import (
    follow,
    named,
    need,
    parameters_of,
    record_in,
)
from residual_smolvla_ros.recording.episodes import RAW, to_nanoseconds
from residual_smolvla_ros.recording.session import Session, image_topic, read_session
from residual_smolvla_ros.records import (
    ENVIRONMENT_STATE,
    EPISODE_EVENT,
    REWARD,
    STEP,
    SUCCESS_ESTIMATE,
    Record,
    unpack,
)
from residual_smolvla_ros.rewards.composition import with_values
from residual_smolvla_ros.rewards.judge import REDUCE, Judge, default_terms, make_terms
from residual_smolvla_ros.rewards.transition import Frame, NotReady, Pose
from residual_smolvla_ros.robots.frames import decode, reduce
from residual_smolvla_ros.robots.joints import names_on_topics, told
from residual_smolvla_ros.robots.units import JOINT_NAMES, lerobot_to_rad

FLAGS = ("next_stamp", "success", "terminated", "missing")
# A step's reward, or the one that its label gave it.
Key = tuple[int, str]


def check_reward(bag: Bag, config: str = "") -> Report:
    """Return a table of recorded against recomputed rewards, term by term.

    With the terms of another `config`: their sums beside the recorded ones, by episode. Raises
    ValueError with one line where the terms do not fit the session.
    """
    session = read_session(bag)
    need(bag, "reward", "policy/step", "episode/event")
    made = _Rejudged(bag, session, _read_terms(Path(config)) if config else None).play()
    recorded = _recorded(bag)
    return _beside(bag, recorded, made) if config else _compare(recorded, made)


def _read_terms(config: Path) -> dict[str, dict]:
    terms = read_parameters(config.expanduser(), "reward").get("terms")
    if not terms:
        raise ConfigError(f"config {config}: expected terms of the node reward, found none")
    return terms


class _Rejudged:
    """A session's steps judged anew, by `terms` or by its own."""

    def __init__(self, bag: Bag, session: Session, terms: dict[str, dict] | None):
        self._bag = bag
        parameter = parameters_of(session, "reward")
        environment = parameter("environment", True)
        executed = parameter("executed_commands", False)
        lockstep = parameter("lockstep", True)
        self._own = _nested(session.parameters("reward"), "terms") or default_terms(environment)
        self._joint_names = tuple(parameter("joint_names", list(JOINT_NAMES)))
        self._topic_names = names_on_topics(parameter("ros_joint_names", ()), self._joint_names)
        self._make = partial(
            make_terms,
            joint_names=self._joint_names,
            cameras=parameter("cameras", ["front", "wrist"]),
            rate_hz=parameter("rate_hz", 30.0),
            period_steps=parameter("camera_period_steps", 1),
        )
        self._reward = self._make(self._own if terms is None else terms)
        self._now = bag.start / 1e9
        self._judge = Judge(self._reward, environment, executed, lockstep, lambda: self._now)
        if terms is None:
            self._follow_changes()
        self._images: dict[str, Message] = {}
        self._as_raw = parameter("image_transport", "raw") == "raw"
        self._poses: dict[str, Pose] = {}
        self._frames = {name: partial(self._frame, name) for name in self._reward.cameras}
        self._cameras = {self._image_topic(name): name for name in self._reward.cameras}
        self._takers = self._listen(environment, environment and lockstep)

    def _follow_changes(self) -> None:
        """Change the terms where the session did: each reward tells what had been changed."""
        before = ""
        for record in _recorded(self._bag).values():
            settings = record.metadata.get("settings", "")
            if settings not in ("", before):
                before = settings
                reward = self._make(with_values(self._own, json.loads(settings)))
                self._judge.change(reward, settings, since=record.metadata["stamp"])

    def _listen(self, environment: bool, lockstep: bool) -> dict:
        """Return what takes the messages of a topic: those that the node would have heard."""
        needs, join = self._reward.needs, self._judge.join
        takers = {"episode/event": None}
        if environment:
            takers["environment/state"] = self._with(ENVIRONMENT_STATE, join.add_environment)
        if "step" in needs or not lockstep:
            takers["policy/step"] = self._with(STEP, self._take_step)
        if "joints" in needs:
            takers["joint_states"] = self._take_state
        if "executed" in needs:
            takers["executed_command"] = self._take_executed
        takers |= dict.fromkeys(self._reward.pose_topics, self._take_pose)
        takers |= dict.fromkeys(self._cameras, self._take_image)
        need(self._bag, *takers)
        if "success/estimate" in self._bag.topics:
            estimate = self._judge.take_estimate
            takers["success/estimate"] = self._with(SUCCESS_ESTIMATE, estimate)
        return takers

    def _with(self, schema, take):
        return lambda message: take(record_in(self._bag, message, schema))

    def _image_topic(self, camera: str) -> str:
        raw = f"{camera}/{RAW}"
        return raw if raw in self._bag.topics else image_topic(camera)

    # -- what comes in ----------------------------------------------------------------------

    def _take_step(self, record: Record) -> None:
        self._judge.join.add_step(record, lerobot_to_rad(record["command"], self._joint_names))

    def _take_state(self, message: Message) -> None:
        joints = self._bag.decode(message)
        fields = (joints.position, joints.velocity, joints.effort)
        named(joints, self._topic_names)
        values = [told(joints.name, field, self._topic_names) for field in fields]
        self._judge.join.add_state(to_nanoseconds(joints.header), *values)

    def _take_executed(self, message: Message) -> None:
        joints = self._bag.decode(message)
        position = np.array(named(joints, self._topic_names))
        self._judge.join.add_executed(to_nanoseconds(joints.header), position)

    def _take_pose(self, message: Message) -> None:
        pose = self._bag.decode(message)
        at, header = pose.pose.position, pose.header
        place = np.array([at.x, at.y, at.z])
        self._poses[message.topic] = Pose(header.frame_id, to_nanoseconds(header), place)

    def _take_image(self, message: Message) -> None:
        self._images[self._cameras[message.topic]] = message

    def _frame(self, camera: str) -> Frame:
        if camera not in self._images:
            raise NotReady(f"camera {camera}: expected an image, found none yet")
        message = self._images[camera]
        image = self._bag.decode(message)
        if message.topic.endswith(RAW):
            from rosbags.image import message_to_cvimage

            pixels = reduce(message_to_cvimage(image, "rgb8"), REDUCE)
        elif self._as_raw:  # what the session had was never compressed
            pixels = reduce(decode(image.data), REDUCE)
        else:
            pixels = decode(image.data, REDUCE)
        return Frame(to_nanoseconds(image.header), pixels)

    # -- what goes out ----------------------------------------------------------------------

    def play(self) -> dict[Key, Record]:
        """Return the rewards, by stamp and label."""
        made: dict[Key, Record] = {}
        for message in follow(self._bag, self._takers, "reward"):
            self._now = message.stamp / 1e9
            self._answer(made)
            if message.topic == "episode/event":
                self._label(record_in(self._bag, message, EPISODE_EVENT), made)
            else:
                self._takers[message.topic](message)
                self._answer(made)
        return made

    def _answer(self, made: dict[Key, Record]) -> None:
        for judged in self._judge.answer(frames=self._frames, poses=self._poses):
            _keep(unpack(REWARD, judged.pack()), made)

    def _label(self, event: Record, made: dict[Key, Record]) -> None:
        if Judge.is_verdict(event) and (judged := self._judge.label(event)) is not None:
            _keep(unpack(REWARD, judged.pack()), made)


def _keep(record: Record, into: dict[Key, Record]) -> None:
    into.setdefault((record.metadata["stamp"], record.metadata["label"]), record)


def _recorded(bag: Bag) -> dict[Key, Record]:
    found: dict[Key, Record] = {}
    for message in bag.messages(["reward"]):
        _keep(record_in(bag, message, REWARD), found)
    return found


def _compare(recorded: dict[Key, Record], made: dict[Key, Record]) -> Report:
    report = Report()
    quantities: dict[str, Comparison] = {"reward": Comparison("reward")}
    others = dict.fromkeys(FLAGS, 0)
    both = [key for key in recorded if key in made]
    for key in both:
        there, here = recorded[key], made[key]
        quantities["reward"].add(there["reward"], here["reward"])
        shares = [dict(zip(r.metadata["names"], r["terms"], strict=True)) for r in (there, here)]
        for name in shares[0].keys() | shares[1].keys():
            values = [share.get(name, np.float32(np.inf)) for share in shares]
            quantities.setdefault(name, Comparison(name)).add(*values)
        for name in FLAGS:
            others[name] += there.metadata[name] != here.metadata[name]
    report.table(Comparison.HEADER, [quantity.row for quantity in quantities.values()])
    for name, count in others.items():
        if count:
            report.line(f"{name} differs in {count} rewards")
    only = [len(recorded) - len(both), len(made) - len(both)]
    if any(only):
        report.line(f"recorded only: {only[0]} rewards; computed only: {only[1]}")
    agree = all(quantity.agrees for quantity in quantities.values())
    # The last steps may have come too late for their reward to be recorded.
    report.agrees = bool(both) and agree and not any(others.values()) and not only[0]
    return report


def _beside(bag: Bag, recorded: dict[Key, Record], made: dict[Key, Record]) -> Report:
    """Return the sums of old and new rewards by episode."""
    rows, total = [], np.zeros(2)
    missing: dict[str, int] = defaultdict(int)
    for plan, stamps, label in _episodes(bag):
        sums = np.zeros(2)
        for column, rewards in enumerate((recorded, made)):
            for stamp in stamps:
                # A label's reward replaces the one before.
                record = rewards.get((stamp, label)) or rewards.get((stamp, ""))
                sums[column] += float(record["reward"]) if record else 0.0
                if column and record:
                    for name in record.metadata["missing"]:
                        missing[name] += 1
        total += sums
        rows.append((plan.episode, plan.phase, len(stamps), label or "-", *map(float, sums)))
    rows.append(("all", "", sum(row[2] for row in rows), "", *map(float, total)))
    report = Report()
    report.table(("episode", "phase", "steps", "label", "recorded", "new"), rows)
    for name, count in missing.items():
        report.line(f"{name}: lacked its input in {count} steps, its share is 0 there")
    return report


def _episodes(bag: Bag) -> list[tuple[EpisodePlan, list[int], str]]:
    """Return plan, steps by stamp and label of each episode that ended."""
    steps: dict[int, set[int]] = defaultdict(set)
    for message in bag.messages(["policy/step"]):
        step = record_in(bag, message, STEP).metadata
        if not step["final"]:
            steps[step["episode"]].add(step["stamp"])
    found, labels = [], {}
    for message in bag.messages(["episode/event"]):
        event = record_in(bag, message, EPISODE_EVENT).metadata
        if event["event"] in ("end", "label"):
            labels[event["episode"]] = event["label"]
        if event["event"] == "end":
            found.append((EpisodePlan.from_json(event["plan"]), event["last_stamp"]))
    return [
        (plan, sorted(s for s in steps[plan.episode] if s <= last), labels[plan.episode])
        for plan, last in found
    ]


def _nested(flat: dict, prefix: str) -> dict:
    """Return the values below a prefix of dotted names, nested."""
    values: dict = {}
    for name, value in flat.items():
        if name.startswith(f"{prefix}."):
            _, *folders, last = name.split(".")
            place = values
            for folder in folders:
                place = place.setdefault(folder, {})
            place[last] = value
    return values
