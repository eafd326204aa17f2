"""Check `policy`: compute every action of a session anew from what was recorded."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from residual_smolvla_ros.errors import BagError
from residual_smolvla_ros.learning.acting import check_weights, load_residual, take_weights
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.planning import make_planning
from residual_smolvla_ros.policy.base import load_base
from residual_smolvla_ros.policy.frozen import FrozenPolicy
from residual_smolvla_ros.policy.residual_policy import PolicyStep, ResidualPolicy
from residual_smolvla_ros.policy.vision import token_age
from residual_smolvla_ros.recording.bag_reader import Bag
from residual_smolvla_ros.recording.checks.latency import Latency
from residual_smolvla_ros.recording.checks.report import Comparison, Report
from residual_smolvla_ros.recording.checks.source import (
    follow,
    need,
    parameters_of,
    record_in,
)
from residual_smolvla_ros.recording.episodes import StoredImage, to_nanoseconds
from residual_smolvla_ros.recording.session import (
    Session,
    find_base,
    image_topic,
    read_session,
)
from residual_smolvla_ros.records import ENVIRONMENT_STATE, EPISODE_EVENT, STEP, WEIGHTS, Record
from residual_smolvla_ros.robots.joints import names_on_topics, read_joints
from residual_smolvla_ros.robots.kinematics import Kinematics
from residual_smolvla_ros.robots.units import JOINT_NAMES, lerobot_to_rad, rad_to_lerobot

QUANTITIES = ("features", "base", "residual", "command")
SENT = "joint_trajectory"


def check_policy(bag: Bag, base_checkpoint: str = "") -> Report:
    """Return a table of recorded against recomputed quantities, and one of the latencies.

    Raises ValueError with one line where the actions cannot be computed.
    """
    session = read_session(bag)
    path, is_same = find_base(session, base_checkpoint)
    report = recompute(bag, session, path)
    if not is_same:
        report.parts.insert(0, "the base is another one than the session's")
    return report


def recompute(bag: Bag, session: Session, base: FrozenPolicy | Path) -> Report:
    """Return what `check_policy` does, computed by a base or by that of a folder."""
    need(bag, "joint_states", SENT, "policy/step", "episode/event")
    if isinstance(base, Path):
        parameter = parameters_of(session, "policy")
        base = load_base(base, parameter("device", "cpu"), make_planning(parameter))
    report, check = Report(), _Check(bag, session, base)
    for episode in check.episodes():
        check.play(episode)
    report.table(Comparison.HEADER, [quantity.row for quantity in check.quantities.values()])
    for reason, steps in check.left_out.items():
        report.line(f"not computed: {steps} steps, {reason}")
    report.line(f"{check.led} steps of a person, {check.blended} of a handover: their commands "
                "are taken as recorded")  # fmt: skip
    report.table(Latency.HEADER, check.latency.rows())
    compared = all(quantity.agrees for quantity in check.quantities.values())
    report.agrees = compared and not check.left_out and check.quantities["command"].count > 0
    return report


@dataclass
class _Episode:
    """What an episode's actions are computed from, by stamp where there are many."""

    number: int
    steps: dict[int, Record] = field(default_factory=dict)


class _Check:
    """Play a session's episodes anew, with the policy of the node."""

    def __init__(self, bag: Bag, session: Session, base: FrozenPolicy):
        self._bag = bag
        parameter = parameters_of(session, "policy")
        torch.set_num_threads(parameter("torch_threads", 1))
        self._joint_names = tuple(parameter("joint_names", list(JOINT_NAMES)))
        self._topic_names = names_on_topics(parameter("ros_joint_names", ()), self._joint_names)
        self._period_ns = round(1e9 / parameter("rate_hz", 30.0))
        base.check_robot(session.cameras, list(self._joint_names))
        planning = make_planning(parameter)
        self._policy = ResidualPolicy(base, parameter("task", ""), Kinematics(), planning)
        self._learns = "learner/weights" in bag.topics
        if not self._learns:
            load_residual(self._policy, parameter("residual_checkpoint", ""))
        self._weights: dict[int, Record] = {}
        self._plans: dict[int, EpisodePlan] = {}
        self._states: dict[int, object] = {}
        self._environments: dict[int, Record] = {}
        self._sent: dict[int, np.ndarray] = {}
        self._images: dict[tuple[str, int], StoredImage] = {}
        self._tasks: list[tuple[int, str]] = []  # by log time
        self._answered: dict[int, int] = {}  # stamp to log time
        self.quantities = {name: Comparison(name) for name in (*QUANTITIES, SENT)}
        self.latency = Latency()
        self.left_out: dict[str, int] = {}
        self.led = self.blended = 0

    # -- what is read -----------------------------------------------------------------------

    def episodes(self) -> Iterator[_Episode]:
        """Yield episodes, each once the next one has begun: topics overtake each other."""
        wanted = self._wanted_images()
        cameras = {image_topic(name): name for name in self._policy.base.cameras}
        topics = {"joint_states", SENT, "policy/step", "episode/event", "task",
                  "environment/state", "learner/weights", *cameras}  # fmt: skip
        before: _Episode | None = None
        episode: _Episode | None = None
        for message in follow(self._bag, topics & self._bag.topics.keys(), "policy"):
            topic = message.topic
            if topic in cameras:
                self._take_image(cameras[topic], message, wanted)
            elif topic != "policy/step":
                self._take(message)
            else:
                step = record_in(self._bag, message, STEP)
                number, stamp = step.metadata["episode"], step.metadata["stamp"]
                self.latency.answer(topic, stamp, message.stamp)
                self._answered.setdefault(stamp, message.stamp)
                if episode is None or number != episode.number:
                    if before is not None:
                        yield before
                        self._forget(before)
                    before, episode = episode, _Episode(number)
                episode.steps.setdefault(stamp, step)
        for rest in (before, episode):
            if rest is not None:
                yield rest

    def _wanted_images(self) -> set[tuple[str, int]]:
        wanted = set()
        for message in self._bag.messages(["policy/step"]):
            step = record_in(self._bag, message, STEP).metadata
            wanted |= set(step["plan_images"].items()) | set(step["token_images"].items())
        return wanted

    def _take_image(self, camera: str, message, wanted: set) -> None:
        stamp = to_nanoseconds(self._bag.decode(message).header)
        if (camera, stamp) in wanted:
            self._images.setdefault((camera, stamp), StoredImage(message.kind, message.data, stamp))

    def _take(self, message) -> None:
        topic = message.topic
        if topic == "learner/weights":
            record = record_in(self._bag, message, WEIGHTS)
            self._weights[record.metadata["version"]] = record
        elif topic == "episode/event":
            event = record_in(self._bag, message, EPISODE_EVENT).metadata
            if event["event"] == "prepare":
                plan = EpisodePlan.from_json(event["plan"])
                self._plans[plan.episode] = plan
        elif topic == "environment/state":
            record = record_in(self._bag, message, ENVIRONMENT_STATE)
            self._environments[record.metadata["stamp"]] = record
        else:
            self._take_message(topic, self._bag.decode(message), message.stamp)

    def _take_message(self, topic: str, decoded, at: int) -> None:
        if topic == "task":
            self._tasks.append((at, decoded.data))
            return
        stamp = to_nanoseconds(decoded.header)
        if topic == "joint_states":
            self._states.setdefault(stamp, decoded)
            self.latency.ask(stamp, at)
        elif decoded.points:
            positions = dict(zip(decoded.joint_names, decoded.points[0].positions, strict=False))
            sent = np.array([positions.get(name, np.nan) for name in self._topic_names])
            self._sent.setdefault(stamp, sent)
            self.latency.answer(topic, stamp, at)

    def _forget(self, episode: _Episode) -> None:
        last = max(episode.steps)
        for kept in (self._states, self._environments, self._sent, self._answered):
            for stamp in [stamp for stamp in kept if stamp <= last]:
                del kept[stamp]
        used = {
            pair
            for step in episode.steps.values()
            for name in ("plan_images", "token_images")
            for pair in step.metadata[name].items()
        }
        for pair in used & self._images.keys():
            del self._images[pair]
        self._plans.pop(episode.number, None)
        oldest = min(s.metadata["weights_version"] for s in episode.steps.values())
        for version in [version for version in self._weights if version < oldest]:
            del self._weights[version]

    # -- what is computed -------------------------------------------------------------------

    def play(self, episode: _Episode) -> None:
        """Compute an episode's steps, up to the first one that lacks something."""
        stamps = sorted(episode.steps)
        for done, stamp in enumerate(stamps):
            step = episode.steps[stamp]
            try:
                if step.metadata["tick"] != done:
                    raise BagError(f"a step before it is missing in episode {episode.number}")
                if done == 0:
                    self._begin(episode.number, step)
                self._compare(stamp, step)
            except BagError as error:
                reason = str(error)
                self.left_out[reason] = self.left_out.get(reason, 0) + len(stamps) - done
                return

    def _begin(self, number: int, first: Record) -> None:
        plan = self._plans.get(number)
        if plan is None:
            raise BagError(f"the event prepare of episode {number} is missing")
        self._swap(first.metadata["weights_version"])
        self._policy.begin_episode(plan.seed, plan.max_steps, plan.use_residual, plan.explore)

    def _swap(self, version: int) -> None:
        if self._policy.network is not None and self._policy.version == version:
            return
        record = self._weights.get(version)
        if record is None:
            raise BagError(f"weights of version {version} are missing")
        take_weights(self._policy, record, check_weights(record))

    def _compare(self, stamp: int, record: Record) -> None:
        self._swap(record.metadata["weights_version"])
        computed, names = self._step(stamp, record, *self._observed(stamp))
        for name in names:
            self.quantities[name].add(record[name], getattr(computed, name))
        if "command" in names and stamp in self._sent:
            positions = lerobot_to_rad(computed.command, self._joint_names)
            self.quantities[SENT].add(self._sent[stamp], positions)

    def _joints(self, stamp: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        if stamp not in self._states:
            raise BagError(f"joint_states of stamp {stamp} is missing")
        joints = read_joints(self._states[stamp], self._topic_names)
        return rad_to_lerobot(joints.pop("position"), self._joint_names), joints

    def _observed(self, stamp: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        state, extra = self._joints(stamp)
        if self._policy.config.needs_environment:
            if stamp not in self._environments:
                raise BagError(f"environment/state of stamp {stamp} is missing")
            extra |= self._environments[stamp].tensors
        return state, extra

    def _step(
        self, stamp: int, record: Record, state: np.ndarray, extra: dict
    ) -> tuple[PolicyStep, tuple[str, ...]]:
        """Return the step, and which of its quantities the recorded ones are to equal."""
        policy, told = self._policy, record.metadata
        if told["final"]:
            return policy.finish(state, extra), ("features",)
        # What nobody sampled has neither a log-probability nor a value: a person's.
        led = told["intervention"] and not record["log_prob"] and not record["value"]
        if told["plan_images"]:
            self._plan(stamp, told["plan_images"], told["plan"])
        elif policy.player.is_empty or (policy.needs_plan and not led):
            raise BagError(f"step {stamp} needs a plan, and none was made in it")
        if told["token_images"]:
            _, age = token_age(told["token_images"], stamp, self._period_ns)
            images = self._pixels(told["token_images"])
            policy.see(policy.base.encode([images], policy.config.vision_cameras)[0], age)
        if not policy.has_tokens:
            raise BagError(f"step {stamp} needs vision tokens, and none were taken until then")
        command = record["command"]
        if stamp in self._sent:  # as precise as it was
            command = rad_to_lerobot(self._sent[stamp], self._joint_names)
        if led:
            self.led += 1
            return policy.follow(command, state, extra), QUANTITIES[:3]
        step = policy.step(state, extra)
        if told["intervention"]:
            self.blended += 1
            return policy.overrule(step, command, state), QUANTITIES[:3]
        return step, QUANTITIES

    def _plan(self, stamp: int, images: dict[str, int], told: dict[str, int]) -> None:
        """Plan anew from what a plan was made from, and let it take over as it did."""
        if told.keys() != {"stamp", "tick", "lead", "left"}:
            raise BagError(f"step {stamp} does not tell what its plan was made for")
        state, _ = self._joints(told["stamp"])
        policy = self._policy
        # The state of an episode's first plan may have gone unanswered.
        policy.task = self._task_at(told["stamp"] if told["stamp"] in self._answered else stamp)
        request = policy.player.ask_again(told["tick"], told["lead"], told["left"])
        policy.take_plan(policy.make_plan(request, self._pixels(images), state), request)

    def _task_at(self, stamp: int) -> str:
        at = self._answered[stamp]
        return next((text for told, text in reversed(self._tasks) if told <= at), self._policy.task)

    def _pixels(self, stamps: dict[str, int]) -> dict[str, np.ndarray]:
        if missing := [f"{name} of stamp {stamp}" for name, stamp in stamps.items()
                       if (name, stamp) not in self._images]:  # fmt: skip
            raise BagError(f"images are missing: {', '.join(missing)}")
        return {pair[0]: self._images[pair].pixels() for pair in stamps.items()}
