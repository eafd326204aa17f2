"""Frames of labelled episodes become a dataset; those that show nothing certain do not."""

import numpy as np
import pytest

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.records import DISCARD, FAILURE, SUCCESS
from residual_smolvla_ros.success.collector import Collector, FrameWindow
from residual_smolvla_ros.success.frames import FrameDataset, open_frames
from residual_smolvla_ros.success.images import resize

S = 1_000_000_000
WINDOW = FrameWindow(success_s=0.5, after_s=1.0, unsure_s=1.0)


@pytest.fixture
def dataset(tmp_path):
    return FrameDataset(tmp_path / "data", ["front"], 5.0, (4, 4), "Lift the red cube")


def play(collector: Collector, end_s: float, label: str, first_s: float = 10.0) -> None:
    """Play an episode at 5 Hz whose frames' pixels are their number, and 3 s after its end."""
    collector.begin()
    stamps = np.arange(first_s, end_s + 3.0, 0.2)
    for number, stamp in enumerate(stamps):
        if stamp > end_s and not collector.has_ended:
            collector.end(round(end_s * S), label)
        if collector.wants(round(stamp * S)):
            collector.add(round(stamp * S), {"front": np.full((4, 4, 3), number, dtype=np.uint8)})


def read(dataset: FrameDataset) -> list[tuple[int, int, float]]:
    """Return episode, number and reward of every frame of a dataset."""
    frames = open_frames(dataset.folder)
    return [
        (
            int(item["episode_index"]),
            round(255 * float(item["observation.images.front"].mean())),
            float(item["next.reward"]),
        )
        for item in (frames[index] for index in range(len(frames)))
    ]


def test_the_end_of_a_success_is_positive_and_what_nobody_knows_is_left_out(dataset):
    """Frames at 10.0, 10.2 ...; the end at 13.1: done from 12.6, unsure from 11.6."""
    collector = Collector(dataset, WINDOW)
    play(collector, 13.1, SUCCESS)
    assert "success: 16 frames, 8 of them positive" in collector.finish()
    assert read(dataset) == [(0, n, 0.0) for n in range(8)] + [(0, n, 1.0) for n in range(13, 21)]


def test_a_failure_has_no_positive_frame_and_loses_none(dataset):
    collector = Collector(dataset, WINDOW)
    play(collector, 11.1, FAILURE)
    collector.finish()
    assert read(dataset) == [(0, n, 0.0) for n in range(11)]


def test_a_label_that_comes_after_the_end_counts(dataset):
    collector = Collector(dataset, WINDOW)
    play(collector, 13.1, "")
    collector.label(round(13.1 * S), SUCCESS)
    assert collector.finish().startswith("success")
    assert dataset.positives == 8


@pytest.mark.parametrize("label", [DISCARD, ""])
def test_an_episode_that_is_discarded_or_unlabelled_is_dropped(dataset, label):
    collector = Collector(dataset, WINDOW)
    play(collector, 11.1, label)
    assert "dropped" in collector.finish()
    assert not dataset.folder.exists()


def test_the_end_of_an_earlier_episode_does_not_label_this_one(dataset):
    """A node that comes up during an episode hears of those before, too."""
    collector = Collector(dataset, WINDOW)
    collector.begin()
    collector.end(5 * S, FAILURE)
    collector.add(10 * S, {"front": np.zeros((4, 4, 3), dtype=np.uint8)})
    collector.end(5 * S, FAILURE)
    assert not collector.has_ended
    assert "no label" in collector.finish()


def test_each_episode_is_readable_before_the_next_is_written(dataset):
    """Else a power cut would take all episodes with it."""
    collector = Collector(dataset, WINDOW)
    for episode in range(2):
        play(collector, 11.1, FAILURE)
        collector.finish()
        assert {owner for owner, _, _ in read(dataset)} == set(range(episode + 1))


def test_files_that_are_there_are_not_written_over(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="output: expected a new or empty folder, found files"):
        FrameDataset(tmp_path, ["front"], 5.0)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folder": ""}, "output: expected a folder"),
        ({"cameras": []}, "cameras: expected the names"),
        ({"size": (128,)}, "image_size: expected height and width"),
        ({"size": (0, 128)}, "image_size: expected height and width"),
    ],
)
def test_parameters_that_make_no_dataset_are_refused(tmp_path, change, message):
    settings = {"folder": tmp_path / "data", "cameras": ["front"], "rate_hz": 5.0}
    with pytest.raises(ConfigError, match=message):
        FrameDataset(**(settings | change))


def test_a_time_below_zero_is_refused():
    with pytest.raises(ConfigError, match=r"success_s: expected 0 or more .* found -0\.5"):
        FrameWindow(success_s=-0.5)


def test_resizing_keeps_the_whole_image_and_is_not_aliased():
    """A left half stays a left half; a chequerboard of pixels becomes grey, not black or white."""
    halves = np.zeros((480, 640, 3), dtype=np.uint8)
    halves[:, :320] = 200
    small = resize(halves, 128, 128)
    assert small.shape == (128, 128, 3)
    assert (small[:, :63] == 200).all()
    assert (small[:, 65:] == 0).all()
    board = 255 * (np.indices((480, 640)).sum(0) % 2).astype(np.uint8)
    grey = resize(np.repeat(board[:, :, None], 3, axis=2), 128, 128)
    assert np.abs(grey[8:-8, 8:-8].astype(int) - 127).max() < 40
