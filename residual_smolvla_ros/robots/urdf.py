"""Forward kinematics of any arm that has a URDF, by Pinocchio."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from residual_smolvla_ros.errors import ConfigError


def so101_urdf() -> Path:
    """Return the SO101's URDF in the package so101-nexus; raise ConfigError if it is not there.

    Its `gripper_frame_link` is LeRobot's, at the fixed fingertip; its `tcp_frame_link` is the
    simulator's tool centre point, between the jaws.
    """
    spec = find_spec("so101_nexus")  # finds it without importing it and MuJoCo
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "assets" / "SO101" / "so101_new_calib.urdf"
        if file.is_file():
            return file
    raise ConfigError("urdf: expected a file, or the package so101-nexus, whose SO101 is the "
                      "default, found neither")  # fmt: skip


def joint_limits(path: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper limits (names,) in rad; raise ConfigError as UrdfKinematics does."""
    model = _read(path)
    if missing := [name for name in names if not model.existJointName(name)]:
        raise ConfigError(f"urdf {path}: expected joints {', '.join(names)}, found no {missing}")
    places = [model.idx_qs[model.getJointId(name)] for name in names]
    return model.lowerPositionLimit[places], model.upperPositionLimit[places]


def _read(path: Path):
    """Return Pinocchio's model of a URDF file."""
    # Half a second of import that only this needs.
    try:
        import pinocchio
    except ImportError as error:
        raise ConfigError(f"urdf: expected the package pin (Pinocchio): {error}") from None
    if not path.is_file():
        raise ConfigError(f"urdf {path}: expected a URDF file, found no such file")
    try:
        return pinocchio.buildModelFromUrdf(str(path))
    except ValueError as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"urdf {path}: expected a URDF file, found another: {text}") from None


class UrdfKinematics:
    """Positions of a link in the frame of the URDF's root link, in m.

    Raises ConfigError for a file that is no URDF, or has no such link.
    """

    def __init__(self, path: Path, tool_frame: str):
        model = _read(path)
        import pinocchio

        self._pinocchio = pinocchio
        self._path = path
        body = pinocchio.FrameType.BODY
        if not model.existFrame(tool_frame, body):
            links = ", ".join(frame.name for frame in model.frames if frame.type == body)
            raise ConfigError(f"urdf {path}: expected a link out of {links}, found {tool_frame!r}")
        self._model = model
        self._data = model.createData()
        self._frame = model.getFrameId(tool_frame, body)
        self._neutral = pinocchio.neutral(model)
        self._names: tuple[str, ...] = ()
        self._order = self._places = np.array([], dtype=np.intp)

    def forward(self, names: tuple[str, ...], position: np.ndarray) -> np.ndarray:
        """Return the position (3,) of the link for joints (n,) in rad, in the order of `names`.

        Joints between root and link are found by name; others do not matter. Raises ConfigError
        where one of them is not named, or has more than one degree of freedom.
        """
        if names != self._names:
            self._order, self._places = self._match(names)
            self._names = names
        motion = np.zeros(self._model.nv)
        motion[self._places] = position[self._order]
        # Pinocchio keeps the angle of a continuous joint as cosine and sine.
        joints = self._pinocchio.integrate(self._model, self._neutral, motion)
        self._pinocchio.forwardKinematics(self._model, self._data, joints)
        place = self._pinocchio.updateFramePlacement(self._model, self._data, self._frame)
        return place.translation.copy()

    def _match(self, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return where the joints of the chain are in `names`, and where in Pinocchio's vector."""
        last = self._model.frames[self._frame].parentJoint
        chain = list(self._model.supports[last])[1:]  # without the universe
        wanted = [self._model.names[joint] for joint in chain]
        missing = [name for name in wanted if name not in names]
        if missing or any(self._model.nvs[joint] != 1 for joint in chain):
            raise ConfigError(
                f"urdf {self._path}: expected one angle each of {', '.join(wanted)}, "
                f"found joints {', '.join(names)}"
            )
        order = [names.index(name) for name in wanted]
        places = [self._model.idx_vs[joint] for joint in chain]
        return np.array(order, dtype=np.intp), np.array(places, dtype=np.intp)
