"""What an episode of a session is, put together from its messages."""

from dataclasses import dataclass

import numpy as np
from rosbags.image import message_to_cvimage

from residual_smolvla_ros.errors import BagError, ConfigError
from residual_smolvla_ros.learning.schedule import (
    BASE,
    CLIP_BASE,
    CLIP_RESIDUAL,
    RESIDUAL,
    TRAIN,
    TRAINING_PHASES,
    VALIDATION,
    WARMUP,
    EpisodePlan,
)
from residual_smolvla_ros.recording import cdr
from residual_smolvla_ros.recording.session import Session
from residual_smolvla_ros.records import Record
from residual_smolvla_ros.robots.frames import decode
from residual_smolvla_ros.robots.joints import names_on_topics
from residual_smolvla_ros.robots.units import JOINT_NAMES

COMPRESSED, RAW = "image_raw/compressed", "image_raw"
SUCCESSES, ALL = "success", "all"
# The clips show held-out scenes a second time.
PHASES = (BASE, WARMUP, TRAIN, VALIDATION, RESIDUAL, CLIP_BASE, CLIP_RESIDUAL)
GROUPS = {"training": TRAINING_PHASES, "evaluation": (BASE, RESIDUAL)}


@dataclass(frozen=True)
class Layout:
    """What a session's messages are read by.

    `joint_names` are LeRobot's, `topic_names` what messages call the same joints.
    `executed` says that the robot tells what it executed; `task` is the language instruction
    until the topic `task` replaces it.
    """

    cameras: tuple[str, ...]
    joint_names: tuple[str, ...]
    topic_names: tuple[str, ...]
    executed: bool
    task: str

    @classmethod
    def of(cls, session: Session) -> "Layout":
        """Return the layout of a session's messages."""
        policy = session.parameters("policy")
        names = tuple(policy.get("joint_names", JOINT_NAMES))
        return cls(
            cameras=tuple(policy["cameras"]),
            joint_names=names,
            topic_names=names_on_topics(policy.get("ros_joint_names", ()), names),
            executed=session.parameters("reward")["executed_commands"],
            task=policy["task"],
        )

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics, by their relative names, that episodes are made of, without the images."""
        further = ("executed_command",) if self.executed else ()
        return ("episode/event", "policy/step", "reward", "joint_states", "task", *further)


@dataclass(frozen=True)
class StoredImage:
    """An image message as it was serialised."""

    kind: str
    data: bytes
    stamp: int

    def pixels(self) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB; raise BagError where it cannot be decoded."""
        message = cdr.decode(self.kind, self.data)
        try:
            if self.kind == "sensor_msgs/msg/CompressedImage":
                return decode(message.data)
            return message_to_cvimage(message, "rgb8")
        except Exception as error:  # rosbags-image has no error of its own
            raise BagError(f"image of stamp {self.stamp}: {' '.join(str(error).split())}") from None


@dataclass(frozen=True)
class RecordedStep:
    """A control step; joints in LeRobot's units, float32."""

    record: Record  # policy/step
    state: np.ndarray  # (joints,)
    action: np.ndarray  # (joints,), as executed
    reward: float
    success: bool
    images: dict[str, StoredImage]  # the newest at the step or before, by camera


@dataclass(frozen=True)
class RecordedEpisode:
    """An episode that is closed. `image_age` is the oldest image's age at its step in ns."""

    plan: EpisodePlan
    success: bool
    task: str
    steps: tuple[RecordedStep, ...]
    image_age: int


@dataclass(frozen=True)
class Selection:
    """Which episodes a dataset is to have: all or the successful ones, of some phases or of all.

    Raises ConfigError for other words. `phases` may hold groups: training, evaluation.
    """

    episodes: str = ALL
    phases: tuple[str, ...] = ()

    def __post_init__(self):
        if self.episodes not in (ALL, SUCCESSES):
            raise ConfigError(f"episodes: expected {ALL} or {SUCCESSES}, found {self.episodes!r}")
        if strange := [name for name in self.phases if name not in (*PHASES, *GROUPS)]:
            raise ConfigError(
                f"phases: expected some of {', '.join((*PHASES, *GROUPS))}, "
                f"found {', '.join(strange)}"
            )

    def wants(self, episode: RecordedEpisode) -> bool:
        """Tell whether the episode is to be in the dataset."""
        chosen = [phase for name in self.phases for phase in GROUPS.get(name, (name,))]
        in_phase = episode.plan.phase in chosen if chosen else True
        return in_phase and (episode.success or self.episodes == ALL)


def to_nanoseconds(header) -> int:
    """Return the stamp of a message's header in ns."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
