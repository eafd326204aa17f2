"""The command `convert`: a session's bag -> a LeRobotDataset."""

import tempfile
from pathlib import Path

from residual_smolvla_ros.arguments import (
    Argument,
    ArgumentError,
    check_new,
    choice,
    names,
    number,
    parse_values,
)
from residual_smolvla_ros.errors import BagError

CONVERT = "convert"


ARGUMENTS = tuple(
    Argument(name, default, text, parse, (CONVERT,))
    for name, default, text, parse in (
        ("bag", "", "the session's bag: its folder or its .mcap file", str),
        ("output", "", "folder of the dataset; new or empty", str),
        ("episodes", "all", "all or success", choice("all", "success")),
        ("phases", "", "episodes of these phases, as train,validation; default: all", names),
        ("images", "video", "video, or image: PNG without loss", choice("video", "image")),
        ("max_image_age_s", "0.15", "no episode with an image older than this at a step", number),
        ("truncated", "refuse", "cut off bags: refuse or allow", choice("refuse", "allow")),
        ("base_checkpoint", "", "folder of the session's base; default: where it was then", str),
    )
)  # fmt: skip


def run(given: dict[str, str]) -> int:
    """Convert, and say what became of the episodes; return an exit code.

    Raises ValueError with one line for what cannot work; nothing is left in `output` then.
    """
    values = parse_values(ARGUMENTS, given)
    for name in ("bag", "output"):
        if not values[name]:
            raise ArgumentError(f"{name}: expected a folder, found none")
    # Only now: a wrong argument is refused at once, without seconds of imports.
    from residual_smolvla_ros.recording.bag_reader import open_bag

    output = Path(values["output"]).expanduser().resolve()
    check_new(output, "output")
    with open_bag(values["bag"], values["truncated"]) as bag:
        for line in convert(bag, output, values):
            print(line)
    return 0


def convert(bag, output: Path, values: dict) -> list[str]:
    """Write the dataset, and return lines that tell what is in it and what is not.

    `values` are those of ARGUMENTS. Raises BagError for a bag that gives no episode, and
    where the session's base is not found.
    """
    from tqdm import tqdm

    from residual_smolvla_ros.policy.action_units import ActionUnits
    from residual_smolvla_ros.recording.dataset import DatasetSettings, SessionDataset
    from residual_smolvla_ros.recording.episode_builder import EpisodeBuilder
    from residual_smolvla_ros.recording.episodes import Layout, Selection
    from residual_smolvla_ros.recording.session import find_base, read_session

    selection = Selection(values["episodes"], values["phases"])
    session = read_session(bag)
    layout = Layout.of(session)
    topics = topics_of(bag, layout)
    checkpoint, is_same = find_base(session, values["base_checkpoint"])
    if not is_same:
        raise BagError(
            f"base_checkpoint: expected the session's base, whose actions have its scale, found "
            f"another one in {checkpoint}"
        )
    units = ActionUnits(checkpoint, len(layout.joint_names))
    builder, unwanted = EpisodeBuilder(layout), 0
    output.parent.mkdir(parents=True, exist_ok=True)
    # Only a complete dataset gets its name.
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as folder:
        settings = DatasetSettings.of(
            session,
            Path(folder) / output.name,
            videos=values["images"] == "video",
            max_image_age_s=values["max_image_age_s"],
        )
        dataset = SessionDataset(settings, units)
        total = sum(bag.counts[name] for name in topics)
        progress = tqdm(total=total, unit="message", dynamic_ncols=True, disable=None)
        with progress:
            for episode in _episodes(bag, topics, builder, progress):
                if not selection.wants(episode):
                    unwanted += 1
                    continue
                try:
                    dataset.add(episode)
                except BagError as error:
                    builder.left_out.append(str(error))
        dataset.close()
        lines = [
            f"{output}: {dataset.episodes} episodes, {dataset.frames} frames, "
            f"{dataset.successes} successes",
            f"left out: {builder.discarded} discarded, {unwanted} not asked for",
            *(f"left out: {reason}" for reason in builder.left_out),
        ]
        if not dataset.episodes:
            raise BagError(
                f"bag {bag.path}: expected episodes for a dataset, found none; "
                + "; ".join(lines[1:4])
            )
        if output.is_dir():
            output.rmdir()  # empty
        settings.folder.rename(output)
    return lines


def topics_of(bag, layout) -> list[str]:
    """Return the topics to read; raise BagError where the bag lacks one that is needed."""
    from residual_smolvla_ros.recording.episodes import COMPRESSED, RAW

    topics = [name for name in layout.topics if name != "task" or name in bag.topics]
    for camera in layout.cameras:
        # What the camera itself sent comes first.
        sent, raw = f"{camera}/{COMPRESSED}", f"{camera}/{RAW}"
        topics.append(raw if raw in bag.topics and sent not in bag.topics else sent)
    if missing := [name for name in topics if name not in bag.topics]:
        raise BagError(
            f"bag {bag.path}: expected the topics {', '.join(missing)}, "
            f"found {', '.join(sorted(bag.topics))}"
        )
    return topics


def _episodes(bag, topics, builder, progress):
    for message in bag.messages(topics):
        yield from builder.take(message.topic, message.kind, message.data)
        progress.update()
    yield from builder.finish()
