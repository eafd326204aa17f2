"""A session's episodes become a LeRobotDataset: the same from its bag and from its messages."""

import dataclasses
import os
import threading

import numpy as np
import pytest
from lerobot.datasets import LeRobotDataset
from lerobot.utils.feature_utils import dataset_to_policy_features
from made_session import (
    SIZE,
    by_topic,
    described,
    episode,
    position,
    serialise,
    without,
    write,
)

from residual_smolvla_ros import pipeline
from residual_smolvla_ros.arguments import ArgumentError
from residual_smolvla_ros.learning.schedule import BASE
from residual_smolvla_ros.recording import cdr, convert, dataset_thread
from residual_smolvla_ros.recording.bag_reader import Message
from residual_smolvla_ros.recording.dataset_thread import DatasetThread
from residual_smolvla_ros.recording.episode_builder import EpisodeBuilder
from residual_smolvla_ros.recording.episodes import Layout, RecordedEpisode, Selection
from residual_smolvla_ros.recording.session import JOINTS, STRING, Session
from residual_smolvla_ros.records import DISCARD, FAILURE, SUCCESS
from residual_smolvla_ros.robots.units import rad_to_lerobot


def messages(**policy):
    """A success that a simulator judged, a discarded one, a late label, and one cut off."""
    cut = [m for m in episode(5, 4, SUCCESS) if m.topic != "episode/event"]
    return described(
        episode(1, 3, SUCCESS, phase=BASE),
        episode(2, 3, DISCARD, late=True),
        episode(3, 4, SUCCESS, late=True),
        episode(4, 3, FAILURE),
        cut,
        **policy,
    )


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bags") / "session", messages())


def run(bag, output, **arguments) -> LeRobotDataset:
    given = {"bag": str(bag), "output": str(output), "images": "image"} | arguments
    assert convert.run(given) == 0
    return LeRobotDataset("local/any", root=output, video_backend="pyav")


@pytest.fixture(scope="module")
def dataset(bag, tmp_path_factory) -> LeRobotDataset:
    return run(bag, tmp_path_factory.mktemp("data") / "all")


def column(dataset: LeRobotDataset, name: str) -> np.ndarray:
    return np.stack([np.asarray(dataset[i][name]) for i in range(len(dataset))])


def test_each_control_step_of_an_episode_is_a_frame(dataset):
    assert dataset.fps == 30
    assert [e["length"] for e in dataset.meta.episodes] == [3, 4, 3]
    assert dataset[0]["task"] == "Lift the red cube"
    stamps = [
        n * 10**9 + t * 33_333_333 for n, steps in ((1, 3), (3, 4), (4, 3)) for t in range(steps)
    ]
    states = rad_to_lerobot(np.stack([position(stamp) for stamp in stamps]))
    assert column(dataset, "observation.state") == pytest.approx(states, abs=1e-4)
    assert column(dataset, "action")[:, 0].tolist() == [10, 11, 12, 10, 11, 12, 13, 10, 11, 12]
    assert dataset.features["action"]["names"][0] == "shoulder_pan.pos"


def test_a_frame_has_the_newest_image_at_its_step_or_before(dataset):
    shades = (255 * column(dataset, "observation.images.front")).mean(axis=(1, 2, 3)).round()
    assert shades.tolist() == [20, 20, 22, 60, 60, 62, 62, 80, 80, 82]


def test_reward_success_and_end_are_those_of_the_label(dataset):
    """Of the late label the last step's reward was given twice: the second one counts."""
    assert column(dataset, "next.reward").tolist() == [
        0, 0.25, 1.5, 0, 0.25, 0.5, 1.75, 0, 0.25, 0.5
    ]  # fmt: skip
    assert column(dataset, "next.success").nonzero()[0].tolist() == [2, 6]
    assert column(dataset, "next.done").nonzero()[0].tolist() == [2, 6, 9]
    assert column(dataset, "episode_success").tolist() == 7 * [True] + 3 * [False]


def test_base_and_residual_are_told_in_lerobots_units(dataset, base):
    planned = base.unnormalise_action(np.full(6, 0.5))
    assert (column(dataset, "base_action") == planned).all()
    added = column(dataset, "action") - planned
    assert column(dataset, "residual_action") == pytest.approx(added)
    assert (column(dataset, "residual") == np.ones(5)).all()
    assert column(dataset, "intervention").nonzero()[0].tolist() == [1, 4, 8]
    assert column(dataset, "weights_version").tolist() == 3 * [1] + 4 * [3] + 3 * [4]


def test_a_policy_of_lerobot_takes_its_own_features_only(dataset):
    taken = dataset_to_policy_features(dataset.meta.features)
    assert set(taken) == {"observation.state", "observation.images.front", "action"}


def test_only_what_is_asked_for_is_taken(bag, tmp_path):
    """Video, and the successes of training."""
    arguments = {"episodes": "success", "phases": "training", "images": "video"}
    data = run(bag, tmp_path / "few", **arguments)
    assert column(data, "weights_version").tolist() == [3, 3, 3, 3]
    assert data[0]["observation.images.front"].shape == (3, SIZE, SIZE)
    assert data[2]["observation.images.front"].mean().item() == pytest.approx(62 / 255, abs=0.02)


def build(of: list) -> tuple[list[RecordedEpisode], EpisodeBuilder]:
    builder = EpisodeBuilder(Layout.of(Session.from_json(cdr.decode(of[0].kind, of[0].data).data)))
    done = [e for m in of[1:] for e in builder.take(m.topic, m.kind, m.data)]
    return done + builder.finish(), builder


def facts(episodes: list[RecordedEpisode]) -> list:
    return [
        (e.plan, e.success, e.task, e.image_age, s.state.tolist(), s.action.tolist(), s.reward,
         s.images["front"])
        for e in episodes for s in e.steps
    ]  # fmt: skip


@pytest.mark.parametrize("last_topic_first", [False, True])
def test_topics_may_overtake_each_other_as_far_as_they_like(last_topic_first):
    """A session that writes its dataset hears them in another order than the bag holds them."""
    first, *others = messages()
    in_order, _ = build([first, *others])
    assert [e.plan.episode for e in in_order] == [1, 3, 4]
    assert facts(build([first, *by_topic(others, last_topic_first)])[0]) == facts(in_order)


def test_states_without_velocities_are_read_as_rclpy_writes_them():
    """It leaves 4 bytes too many for each empty array of doubles."""
    first, *others = messages()
    bare = [
        dataclasses.replace(m, data=without_velocity(m) + 2 * bytes(4))
        if m.topic == "joint_states"
        else m
        for m in others
    ]
    assert facts(build([first, *bare])[0]) == facts(build([first, *others])[0])


def without_velocity(message: Message) -> bytes:
    fields = vars(cdr.decode(message.kind, message.data))
    fields = {n: v for n, v in fields.items() if not n.startswith("__")}
    nothing = np.zeros(0)
    return serialise(JOINTS, **fields | {"velocity": nothing, "effort": nothing})


@pytest.mark.parametrize("topic", ["policy/step", "joint_states", "reward"])
def test_an_episode_that_lost_a_message_is_left_out_and_named(topic):
    first, *others = messages()
    in_episode_3 = 7
    episodes, builder = build([first, *without(others, topic, in_episode_3)])
    assert [e.plan.episode for e in episodes] == [1, 4]
    assert builder.left_out[0].startswith(f"episode 3: it lacks {topic}")


def test_a_new_task_counts_from_the_next_episode():
    first, *others = described(episode(1, 2, SUCCESS), episode(2, 2, SUCCESS))
    told = Message("task", STRING, serialise(STRING, data="Push it"), 0)
    middle = len(others) // 2
    episodes, _ = build([first, *others[:middle], told, *others[middle:]])
    assert [e.task for e in episodes] == ["Lift the red cube", "Push it"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": ""}, "output: expected a folder, found none"),
        ({"episodes": "best"}, "episodes: expected one of all, success, found 'best'"),
        ({"phases": "trian"}, "phases: expected some of .*, found trian"),
        ({"base_checkpoint": "nowhere"}, "base_checkpoint: .* found no model.safetensors"),
        ({"max_image_age_s": "0.01"}, "at most 0.01 s old at each step, found one of 0.03 s"),
    ],
)
def test_what_makes_no_dataset_is_refused_and_leaves_nothing(bag, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(bag, **({"output": tmp_path / "out"} | arguments))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_not_written_over(bag, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="output: expected a new or empty folder, found files"):
        run(bag, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_topics_that_the_bag_lacks_are_named(tmp_path):
    bag = write(tmp_path / "bag", [m for m in messages() if m.topic != "reward"])
    with pytest.raises(ValueError, match=r"expected the topics reward, found .*policy/step"):
        run(bag, tmp_path / "out")
    bag = write(tmp_path / "other", messages(cameras=["front", "wrist"]))
    with pytest.raises(ValueError, match="expected the topics wrist/image_raw/compressed"):
        run(bag, tmp_path / "out")


def test_of_a_bag_that_was_cut_off_whole_episodes_are_taken_if_allowed(bag, tmp_path):
    cut = tmp_path / "cut_0.mcap"
    cut.write_bytes((bag / "session_0.mcap").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"expected a whole bag, found .* truncated:=allow"):
        run(cut, tmp_path / "out")
    assert run(cut, tmp_path / "out", truncated="allow").num_episodes == 3


def test_a_session_writes_the_same_while_it_goes_on(dataset, tmp_path):
    first, *others = messages()
    told = Session.from_json(cdr.decode(first.kind, first.data).data)
    thread = DatasetThread(told, tmp_path / "live", Selection(), 10**8, videos=False)
    for message in by_topic(others):
        thread.put(message.topic, message.kind, message.data)
    thread.close(timeout_s=60.0)
    assert (thread.error, thread.refused, thread.dropped) == ("", 0, 0)
    assert [line.split(":")[0] for line in thread.reports()] == [
        "episode 5", "episode 1", "episode 3", "episode 4"
    ]  # fmt: skip
    live = LeRobotDataset("local/live", root=tmp_path / "live", video_backend="pyav")
    assert len(live) == len(dataset)
    for here, there in zip(live, dataset, strict=True):
        assert here.keys() == there.keys()
        assert all(np.array_equal(here[name], there[name]) for name in here)


def test_an_end_that_takes_long_tells_how_many_episodes_wait(tmp_path, monkeypatch):
    """It was killed after 3 s, and the dataset did not open."""
    monkeypatch.setattr(dataset_thread, "SAY_S", 0.0)
    first, *others = messages()
    told = Session.from_json(cdr.decode(first.kind, first.data).data)
    thread = DatasetThread(told, tmp_path / "live", Selection(), 10**8, videos=False)
    add, go_on = thread.dataset.add, threading.Event()
    thread.dataset.add = lambda episode: go_on.wait() and add(episode)
    for message in others:
        thread.put(message.topic, message.kind, message.data)
    waiting = []
    thread.close(60.0, lambda count: (waiting.append(count), go_on.set()))
    assert waiting == [3]
    assert LeRobotDataset("local/live", root=tmp_path / "live").num_episodes == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "dataset: expected lockstep:=false or camera_period_steps:=1"),
        ({"camera_period_steps": "1", "dataset": "."}, "dataset: expected a new or empty folder"),
    ],
)
def test_a_session_that_could_not_write_its_dataset_does_not_start(tmp_path, arguments, message):
    given = {"output": str(tmp_path / "run"), "dataset": str(tmp_path / "data")} | arguments
    with pytest.raises(ArgumentError, match=message):
        pipeline.build("finetune", given)


def test_writing_videos_takes_no_real_time_priority(dataset):
    """As root, SVT-AV1 did: what was started from there on starved servos and control loops."""
    assert dataset.num_frames
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
