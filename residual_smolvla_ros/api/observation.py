"""What a robot of LeRobot tells and takes: joints as `<name>.pos`, images by camera name."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from residual_smolvla_ros.robots.units import JOINT_NAMES

POSITION = ".pos"


def read_state(observation: Mapping, joint_names: Sequence[str] = JOINT_NAMES) -> np.ndarray:
    """Return the joint positions (joints,) float32 in LeRobot's units.

    Raises ValueError where a joint is missing or is no finite number.
    """
    keys = [f"{name}{POSITION}" for name in joint_names]
    if missing := [key for key in keys if key not in observation]:
        raise ValueError(
            f"observation: expected {', '.join(missing)}, found {', '.join(map(str, observation))}"
        )
    state = np.array([float(observation[key]) for key in keys], dtype=np.float32)
    if not np.isfinite(state).all():
        raise ValueError(f"observation: expected finite joint positions, found {state.tolist()}")
    return state


def read_images(observation: Mapping, cameras: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the images (H, W, 3) uint8 RGB of cameras by name; raise ValueError without them."""
    images = {}
    for name in cameras:
        image = np.asarray(observation.get(name, ()))
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            found = f"{image.dtype} {image.shape}" if name in observation else "none"
            raise ValueError(f"observation: expected {name} (H, W, 3) uint8, found {found}")
        images[name] = image
    return images


def write_action(command: np.ndarray, joint_names: Sequence[str] = JOINT_NAMES) -> dict[str, float]:
    """Return a command (joints,) in LeRobot's units as a robot's `send_action` takes it."""
    return {
        f"{name}{POSITION}": float(value) for name, value in zip(joint_names, command, strict=True)
    }
