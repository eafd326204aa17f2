"""What reward terms see: one control step, and the state that it led to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from residual_smolvla_ros.records import Record


class NotReady(ValueError):
    """A term lacks an input; the message says which, and what was found."""


@dataclass(frozen=True)
class Frame:
    """An image of a camera."""

    stamp: int  # ns
    pixels: np.ndarray  # (H, W, 3) uint8 RGB; may be reduced in size


@dataclass(frozen=True)
class Pose:
    """Where something is; its orientation is left out."""

    frame_id: str
    stamp: int  # ns
    position: np.ndarray  # (3,) m


@dataclass(frozen=True)
class Transition:
    """What one control step led to.

    Joints are in the order of `RobotDescription.joint_names`. What was not reported is None, or
    not in its mapping: `require`, `frame` and `pose` raise NotReady then.
    """

    stamp: int  # ns, of the step
    next_stamp: int  # ns, of the state that followed
    tick: int  # 0 at an episode's first step
    success: bool = False  # of the step, as a judge says: simulator, classifier or person
    label: str = ""  # a person's: records.SUCCESS, records.FAILURE, or none yet
    position: np.ndarray | None = None  # (joints,) rad, of the state that followed
    velocity: np.ndarray | None = None  # (joints,) rad/s
    effort: np.ndarray | None = None  # (joints,) share of full drive, -1..1
    command: np.ndarray | None = None  # (joints,) rad, what the policy sent
    executed: np.ndarray | None = None  # (joints,) rad, what the safety filter let through
    residual: np.ndarray | None = None  # (actions,) in units of the residual
    environment: Record | None = None  # environment/state of the state that followed
    # The newest image of each camera, decoded when it is called; ValueError where it cannot be.
    frames: Mapping[str, Callable[[], Frame]] = field(default_factory=dict)
    # The newest pose of each topic that a term asked for and one came from.
    poses: Mapping[str, Pose] = field(default_factory=dict)

    def require(self, name: str):
        """Return a field by name, e.g. "position"; raise NotReady if it is None."""
        value = getattr(self, name)
        if value is None:
            raise NotReady(f"{name}: expected one of the step or of the state after it, found none")
        return value

    def frame(self, camera: str, max_age_s: float) -> Frame:
        """Return a camera's image; raise NotReady if there is none of about `next_stamp`."""
        if camera not in self.frames:
            raise NotReady(f"camera {camera}: expected an image, found none yet")
        try:
            frame = self.frames[camera]()
        except ValueError as error:
            raise NotReady(str(error)) from None
        self._check_age(f"camera {camera}", frame.stamp, max_age_s)
        return frame

    def pose(self, topic: str, max_age_s: float) -> Pose:
        """Return a topic's pose; raise NotReady if there is none of about `next_stamp`."""
        if topic not in self.poses:
            raise NotReady(f"{topic}: expected a pose, found none yet")
        self._check_age(topic, self.poses[topic].stamp, max_age_s)
        return self.poses[topic]

    def _check_age(self, what: str, stamp: int, max_age_s: float) -> None:
        age = 1e-9 * (self.next_stamp - stamp)
        # A stamp far ahead is of another clock.
        if abs(age) > max_age_s:
            raise NotReady(
                f"{what}: expected a stamp within {max_age_s:g} s of the state's, "
                f"found one {age:.3f} s before it"
            )
