"""What the residual sees, and how it acts: one configuration, shared through the weights record."""

import dataclasses
import json
import math
from dataclasses import dataclass

import numpy as np

# The normalised state is clipped before a network sees it (ResiP).
STATE_CLIP = 3.0
# Control steps ahead of now at which the feature planned_tcp looks at the plan.
PLAN_AHEAD = (0, 10, 20)
# Turns the metres of planned_tcp into numbers of about one.
TCP_SCALE = 20.0
# One unit of target_from_plan is 2 cm, the size of a typical miss; larger ones are clipped.
TARGET_SCALE, TARGET_CLIP = 50.0, 4.0
# Joint velocities beyond it, in rad/s, are clipped.
VELOCITY_CLIP = 3.0
# Features that the kinematics of the robot give.
TCP_NAMES = frozenset({"planned_tcp", "target_from_plan", "tcp", "target_from_tcp"})
# What each kind of estimate needs to see; it gives target_from_tcp and target_from_plan.
ESTIMATES = {
    "": (),
    "simulator": ("vision", "planned_tcp", "target_from_tcp"),
    "hindsight": ("vision", "planned_tcp", "tcp"),
}
ESTIMATE_SIZE = 3 + 3 * len(PLAN_AHEAD)
# Length of the residual in each action space; 0 is one value a joint.
RESIDUAL_SIZES = {"joint": 0, "gripper": 5}


@dataclass(frozen=True)
class ResidualConfig:
    """The residual's inputs, outputs and network.

    `features` maps the name of each feature to its size, in the order of the network's input:
    state and base_action (joints,), normalised; planned_tcp, where the plan takes the tool centre
    point now and at PLAN_AHEAD, from where it is; target_from_plan, where the task's object is
    from there; chunk_position, 0 at a plan's first action and 1 after its last; episode_time, 0 at
    the start and 1 at the time limit; privileged, what a simulator alone knows.
    Those of OPTIONAL_NAMES are velocity (joints,), rad/s; tcp, the tool centre point in the base
    frame; target_from_tcp, where the task's object is from there, seen from the base; vision, the
    tokens of SmolVLA's vision encoder, in their places, and vision_age, how old they are: 0 when
    fresh, 1 when due to be refreshed.
    `action_scale` is the size of one unit of residual in standard deviations of the base's
    actions (ResiP, ResFiT: 0.1 to 0.2) in the action space `joint`, and in steps of
    `action_space.GRIPPER_UNITS` in the action space `gripper`; `residual_clip` bounds it in
    units; `hold_steps` is for how many control steps a sampled residual is held. With `squash`
    the residual's mean approaches that bound as a tanh does, which off-policy learning needs.
    `critic_only` names features that the actor does not get (asymmetric actor-critic: Pinto et
    al. 2017, arXiv:1710.06542); those of them in `label_only` the critic does not get either: an
    estimator learns from them.
    Tokens are refreshed every `vision_period_steps` control steps. `vision_cameras` is what they
    are taken of, empty for all; `vision_grid` averages them to as many rows and columns of places,
    `vision_channels` projects each onto as many random directions, `vision_components` the whole
    onto as many principal components; 0 leaves them as they are. With `estimate` the networks get,
    in place of the tokens, where the target is estimated to be from them: an estimator learns it
    from target_from_tcp, which only the critic sees then ("simulator"), or from where successful
    episodes grasped ("hindsight").
    """

    features: dict[str, int]
    action_size: int
    action_space: str = "gripper"
    action_scale: float = 1.0
    residual_clip: float = 2.0
    hold_steps: int = 5
    hidden_sizes: tuple[int, ...] = (256, 256)
    log_std_init: float = -1.5
    squash: bool = False
    critic_only: tuple[str, ...] = ()
    label_only: tuple[str, ...] = ()
    vision_period_steps: int = 10
    vision_cameras: tuple[str, ...] = ()
    vision_grid: int = 0
    vision_channels: int = 0
    vision_components: int = 0
    estimate: str = ""

    FEATURE_NAMES = (
        "state",
        "base_action",
        "planned_tcp",
        "target_from_plan",
        "chunk_position",
        "episode_time",
        "privileged",
    )
    OPTIONAL_NAMES = ("velocity", "tcp", "target_from_tcp", "vision", "vision_age")

    def __post_init__(self):
        known = self.FEATURE_NAMES + self.OPTIONAL_NAMES
        unknown = [name for name in self.features if name not in known]
        if unknown or not self.features:
            raise ValueError(
                f"features: expected names out of {', '.join(known)}, "
                f"found {', '.join(unknown) or 'none'}"
            )
        empty = [name for name, size in self.features.items() if size < 1]
        if empty:
            raise ValueError(f"features: expected a size of at least 1, found 0: {empty}")
        if self.action_space not in RESIDUAL_SIZES:
            raise ValueError(
                f"action_space: expected {' or '.join(RESIDUAL_SIZES)}, found {self.action_space}"
            )
        for name in (
            "action_size",
            "action_scale",
            "residual_clip",
            "hold_steps",
            "vision_period_steps",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected > 0, found {getattr(self, name)}")
        self._check_vision()
        self._check_estimate()
        strange = [name for name in self.critic_only if name not in self.features]
        if strange or self.features.keys() <= set(self.critic_only):
            raise ValueError(
                f"critic_only: expected some of the features {', '.join(self.features)}, and one "
                f"left for the actor, found {', '.join(self.critic_only)}"
            )
        if not set(self.label_only) <= set(self.critic_only):
            raise ValueError(
                f"label_only: expected some of critic_only ({', '.join(self.critic_only)}), "
                f"found {', '.join(self.label_only)}"
            )

    def _check_vision(self):
        for name in ("vision_grid", "vision_channels", "vision_components"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        if len(set(self.vision_cameras)) < len(self.vision_cameras):
            raise ValueError(
                f"vision_cameras: expected each camera once, found {', '.join(self.vision_cameras)}"
            )
        if "vision_age" in self.features and not self.needs_tokens:
            raise ValueError("features: expected vision beside vision_age, found none")
        if self.vision_components > self.features.get("vision", self.vision_components):
            raise ValueError(
                f"vision_components: expected at most {self.features['vision']}, the size of "
                f"vision, found {self.vision_components}"
            )

    def _check_estimate(self):
        if self.estimate not in ESTIMATES:
            raise ValueError(
                f"estimate: expected {' or '.join(filter(None, ESTIMATES))}, or nothing, "
                f"found {self.estimate!r}"
            )
        if missing := set(ESTIMATES[self.estimate]) - self.features.keys():
            raise ValueError(
                f"estimate {self.estimate}: expected the features "
                f"{', '.join(ESTIMATES[self.estimate])}, found none of {', '.join(sorted(missing))}"
            )
        if self.estimate == "simulator" and "target_from_tcp" not in self.critic_only:
            raise ValueError(
                "estimate simulator: expected target_from_tcp in critic_only, found "
                f"{', '.join(self.critic_only) or 'none'}"
            )
        if self.estimate and self.vision_components:
            raise ValueError(
                f"vision_components: expected 0 with an estimate, found {self.vision_components}"
            )

    @classmethod
    def from_names(
        cls,
        names,
        joints: int,
        privileged_size: int = 0,
        token_shape: tuple[int, int, int] | None = None,
        **settings,
    ):
        """Build the configuration of a robot of `joints` joints from names of features.

        `token_shape`, cameras, places and channels of the base's tokens, is what the feature
        vision needs.
        """
        sizes = {
            "state": joints,
            "base_action": joints,
            "planned_tcp": 3 * len(PLAN_AHEAD),
            "target_from_plan": 3 * len(PLAN_AHEAD),
            "chunk_position": 1,
            "episode_time": 1,
            "privileged": privileged_size,
            "vision_age": 1,
            "velocity": joints,
            "tcp": 3,
            "target_from_tcp": 3,
        }
        if token_shape is not None:
            sizes["vision"] = _vision_size(token_shape, **settings)
        # An unknown name gets size 0 here and its error message in __post_init__.
        return cls({name: sizes.get(name, 0) for name in names}, action_size=joints, **settings)

    @property
    def needs_environment(self) -> bool:
        """Whether a feature comes from environment/state."""
        names = {"privileged", "target_from_plan", "target_from_tcp"}
        return bool(names & self.features.keys())

    @property
    def needs_tokens(self) -> bool:
        """Whether a feature comes from SmolVLA's vision encoder."""
        return "vision" in self.features

    @property
    def needs_kinematics(self) -> bool:
        """Whether the robot's kinematics are needed."""
        return self.action_space == "gripper" or bool(TCP_NAMES & self.features.keys())

    @property
    def residual_size(self) -> int:
        """Length of the residual."""
        return RESIDUAL_SIZES[self.action_space] or self.action_size

    @property
    def feature_size(self) -> int:
        """Length of the feature vector."""
        return sum(self.features.values())

    def columns(self, name: str) -> slice:
        """Return where a feature is in the feature vector."""
        names = list(self.features)
        start = sum(self.features[before] for before in names[: names.index(name)])
        return slice(start, start + self.features[name])

    @property
    def input_sizes(self) -> dict[str, int]:
        """Length of each feature as the networks get it."""
        reduced = {"vision": self.vision_components} if self.vision_components else {}
        if self.estimate:
            reduced = {"vision": ESTIMATE_SIZE}
        return {name: reduced.get(name, size) for name, size in self.features.items()}

    def to_json(self) -> str:
        """Return the configuration as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ResidualConfig":
        """Read the configuration from JSON."""
        values = json.loads(text)
        # A checkpoint of before lacks what had no other value then.
        tuples = {"hidden_sizes", "critic_only", "label_only", "vision_cameras"}
        for name in tuples & values.keys():
            values[name] = tuple(values[name])
        return cls(**values)

    def pack(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """Return the feature vector (feature_size,) float32.

        Raises ValueError where a feature is missing or has another size.
        """
        parts = []
        for name, size in self.features.items():
            if name not in values:
                raise ValueError(f"feature {name}: expected {size} values, found none")
            part = np.ravel(values[name])
            if part.size != size:
                raise ValueError(f"feature {name}: expected {size} values, found {part.size}")
            parts.append(part)
        return np.concatenate(parts).astype(np.float32)


def _vision_size(
    token_shape: tuple[int, int, int],
    vision_cameras: tuple[str, ...] = (),
    vision_grid: int = 0,
    vision_channels: int = 0,
    **others,
) -> int:
    """Return the length of the feature vision; raise ValueError for more than the tokens have."""
    cameras, places, channels = token_shape
    for name, wanted, most in (
        ("vision_cameras", len(vision_cameras), cameras),
        ("vision_grid", vision_grid, math.isqrt(places)),
        ("vision_channels", vision_channels, channels),
    ):
        if wanted > most:
            raise ValueError(f"{name}: expected at most {most} of the tokens, found {wanted}")
    kept = vision_grid**2 or places
    return (len(vision_cameras) or cameras) * kept * (vision_channels or channels)
