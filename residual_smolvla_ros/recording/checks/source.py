"""What the checks read of a bag: its messages with a progress bar, its records, its base."""

from collections.abc import Callable, Collection, Iterator

from tqdm import tqdm

from residual_smolvla_ros.errors import BagError
from residual_smolvla_ros.recording.bag_reader import Bag, Message
from residual_smolvla_ros.recording.session import Session
from residual_smolvla_ros.records import Record, RecordError, Schema, unpack


def follow(bag: Bag, topics: Collection[str], what: str) -> Iterator[Message]:
    """Yield the messages of topics by log time, and show how far it is."""
    total = sum(bag.counts.get(name, 0) for name in topics)
    with tqdm(total=total, desc=what, unit="message", dynamic_ncols=True, disable=None) as bar:
        for message in bag.messages(topics):
            yield message
            bar.update()


def need(bag: Bag, *topics: str) -> None:
    """Raise BagError where the bag lacks topics."""
    if missing := [name for name in topics if name not in bag.topics]:
        raise BagError(
            f"bag {bag.path}: expected the topics {', '.join(missing)}, "
            f"found {', '.join(sorted(bag.topics))}"
        )


def record_in(bag: Bag, message: Message, schema: Schema) -> Record:
    """Return the record in a message; raise BagError where it is not of its kind."""
    try:
        return unpack(schema, bag.decode(message).data.tobytes())
    except RecordError as error:
        raise BagError(f"bag {bag.path}: {message.topic}: {error}") from None


def parameters_of(session: Session, executable: str) -> Callable:
    """Return a function that gives a node's parameters by name, with a default, as in the node."""
    values = session.parameters(executable)

    def parameter(name: str, default, description: str = ""):
        value = values.get(name, default)
        # YAML takes 1e-4 for text, ROS 2 for a number.
        return float(value) if isinstance(default, float) else value

    return parameter


def named(joints, names: Collection[str]) -> list[float]:
    """Return a JointState's positions in the order of `names`; raise BagError without them."""
    positions = dict(zip(joints.name, joints.position, strict=False))
    if not positions.keys() >= set(names):
        raise BagError(f"expected joints {list(names)}, found {list(positions)}")
    return [positions[name] for name in names]
