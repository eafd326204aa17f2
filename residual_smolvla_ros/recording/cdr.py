"""Messages as ROS 2 serialises them (CDR), decoded without ROS."""

import numpy as np
from rosbags.serde import SerdeError

from residual_smolvla_ros.errors import BagError
from residual_smolvla_ros.recording.bag_writer import typestore

MAX_EXTRA = 64


def decode(kind: str, data: bytes):
    """Return an object with a message's fields, arrays as numpy arrays.

    Raises BagError if the bytes are not such a message.
    """
    problem: Exception | None = None
    # rclpy leaves 4 bytes too many for each empty array of doubles.
    for extra in range(0, min(MAX_EXTRA, len(data) + 1), 4):
        try:
            decoded = typestore().deserialize_cdr(data[: len(data) - extra], kind)
        except (SerdeError, LookupError, ValueError) as error:
            problem = problem or error
            continue
        if extra <= 4 * _empty_arrays(decoded):
            return decoded
    found = " ".join(str(problem).split()) or type(problem).__name__
    raise BagError(f"expected a {kind}, found {found}") from None


def _empty_arrays(value) -> int:
    """Count the empty arrays of 8-byte numbers in a decoded message."""
    if isinstance(value, np.ndarray):
        return int(value.size == 0 and value.itemsize == 8)
    if isinstance(value, list):
        return sum(map(_empty_arrays, value))
    return sum(map(_empty_arrays, vars(value).values())) if hasattr(value, "__dict__") else 0
