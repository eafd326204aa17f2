"""The command `finetune-local`: one process learns what the graph learns, and writes a dataset."""

import itertools
import json
import re
import signal
import subprocess
import sys

import graph
import pytest
import torch
from emulated_so101 import emulated_so101
from lerobot.datasets import LeRobotDataset

from residual_smolvla_ros import cli
from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.learning.checkpoint import load_checkpoint
from residual_smolvla_ros.learning.run import LearnerRun
from residual_smolvla_ros.local.arguments import LocalArguments, parse
from residual_smolvla_ros.local.keys import Keys
from residual_smolvla_ros.local.loop import Loop
from residual_smolvla_ros.local.session import LocalSession
from residual_smolvla_ros.robots.driver import RobotLost
from residual_smolvla_ros.training.cohort import Cohort
from residual_smolvla_ros.training.settings import CohortMaker, learner_from, schedule_from
from residual_smolvla_ros.training.trainer import Trainer

STEPS, EPISODES, RATE = 12, 3, 30
TASK = "Lift the red cube"
SIMULATED = [
    "--robot.type=so101_pick_lift",
    f"--base_policy_path={DEMO_CHECKPOINT}",
    f"--episode_time_s={STEPS / RATE}",
    f"--task={TASK}",
    "--learning_rate=7e-4",
]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """An update after each episode; the first is of the critic only."""
    learner = graph.SETTINGS["/**/learner"] | {"episodes_per_update": 1}
    reward = {"terms": {"environment": {"weight": 1.0}, "success": {"weight": 1.0}}}
    episode = {"max_steps": STEPS}
    folder = tmp_path_factory.mktemp("config")
    return graph.write_config(folder, learner=learner, reward=reward, episode=episode)


def simulated(config, output, *more) -> LocalArguments:
    return parse([*SIMULATED, f"--rl.config={config}", f"--rl.output={output}", *more])


def play(arguments: LocalArguments) -> bool:
    session = LocalSession(arguments)
    try:
        return session.play()
    finally:
        session.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, config):
    """A run of all episodes, with a dataset."""
    folder = tmp_path_factory.mktemp("local")
    dataset = ["--dataset.repo_id=me/cube", "--dataset.push_to_hub=false", "--dataset.video=false"]
    words = [*dataset, f"--dataset.root={folder / 'dataset'}", f"--num_episodes={EPISODES}"]
    assert not play(simulated(config, folder / "run", *words))
    return folder


def weights(run) -> dict[str, torch.Tensor]:
    checkpoint = load_checkpoint(run, training=True)
    return checkpoint.weights | checkpoint.training


def same(run, other) -> bool:
    ours, theirs = weights(run), weights(other)
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in ours.items()
    )


def test_it_learns_to_the_bit_what_training_with_the_parts_of_the_graph_learns(
    finished, config, sim, base, tmp_path
):
    steps = EPISODES * STEPS
    values = {"seed": 0, "eval_episodes": 0, "total_steps": steps, "episodes": EPISODES}
    learner = learner_from(config, DEMO_CHECKPOINT, 0, steps)
    run = LearnerRun(tmp_path, learner, {}, resume=False)
    cohort = Cohort(base, TASK, 1, CohortMaker(config, DEMO_CHECKPOINT, "cpu", TASK).reward, sim)
    trainer = Trainer(tmp_path, schedule_from(config, values, learner), run, cohort, print)
    trainer.train()
    run.close()
    cohort.close()
    assert learner.counters.version == EPISODES
    assert same(finished / "run", tmp_path)


def test_the_dataset_has_the_features_and_frames_of_lerobot_record(finished):
    dataset = LeRobotDataset("me/cube", root=finished / "dataset")
    assert dataset.num_episodes == EPISODES
    assert dataset.num_frames == EPISODES * STEPS
    own = {name for name in dataset.features if name.startswith(("observation.", "action"))}
    images = {"observation.images.front", "observation.images.wrist"}
    assert own == images | {"observation.state", "action"}
    assert dataset.features["action"]["names"][-1] == "gripper.pos"
    frame = dataset[0]
    assert frame["task"] == TASK
    assert frame["observation.state"].shape == frame["action"].shape == (6,)


def test_a_run_goes_on_from_its_checkpoint_to_the_bit_and_its_dataset_grows(
    finished, config, tmp_path
):
    words = ["--dataset.repo_id=me/cube", "--dataset.push_to_hub=false", "--dataset.video=false"]
    words += [f"--dataset.root={tmp_path / 'dataset'}"]
    play(simulated(config, tmp_path / "a", "--num_episodes=2", *words))
    with pytest.raises(ValueError, match=r"dataset me/cube.*: expected a new folder, found"):
        LocalSession(simulated(config, tmp_path / "b", *words))
    go_on = [f"--residual_checkpoint_path={tmp_path / 'a'}", "--resume=true", "--num_episodes=1"]
    play(simulated(config, tmp_path / "b", *go_on, *words))
    assert same(tmp_path / "b", finished / "run")
    ours = LeRobotDataset("me/cube", root=tmp_path / "dataset")
    theirs = LeRobotDataset("me/cube", root=finished / "dataset")
    assert len(ours) == len(theirs)
    assert torch.equal(ours[-1]["action"], theirs[-1]["action"])


def test_a_dataset_to_add_to_that_is_not_there_is_not_looked_for_elsewhere(config, tmp_path):
    words = ["--dataset.repo_id=me/cube", f"--dataset.root={tmp_path / 'none'}", "--resume=true"]
    with pytest.raises(ValueError, match="dataset me/cube: expected one to add to, found: none in"):
        LocalSession(simulated(config, tmp_path / "run", *words))


def test_ctrl_c_keeps_finished_episodes(config, tmp_path):
    words = [*SIMULATED, f"--rl.config={config}", f"--rl.output={tmp_path / 'run'}"]
    words += ["--dataset.repo_id=me/cube", f"--dataset.root={tmp_path / 'dataset'}"]
    words += ["--dataset.push_to_hub=false", "--dataset.video=false", "--num_episodes=1000"]
    command = [sys.executable, "-m", "residual_smolvla_ros.cli", "finetune-local", *words]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as process:
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("episode 2/"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130, "".join(said)
    kept = sum(line.startswith("episode ") for line in said)
    assert f"stopped after {kept} of 1000 episodes; go on by" in said[-1]
    assert load_checkpoint(tmp_path / "run").counters["episodes"] == kept
    assert LeRobotDataset("me/cube", root=tmp_path / "dataset").num_episodes == kept


@pytest.fixture
def so101(tmp_path):
    """The arguments of a real arm: emulated servos, and cameras on pipes."""
    with emulated_so101(tmp_path) as (servos, devices):
        size = {"width": 320, "height": 240, "fps": 30}
        cameras = {
            name: {"type": "opencv", "index_or_path": str(device), **size}
            for name, device in devices.items()
        }
        words = [
            "--robot.type=so101_follower",
            f"--robot.port={servos.port}",
            "--robot.id=arm",
            f"--robot.calibration_dir={tmp_path}",
            f"--robot.cameras={json.dumps(cameras)}",
            f"--policy.path={DEMO_CHECKPOINT}",
            "--dataset.single_task=Lift the red cube",
            "--dataset.episode_time_s=1",
            "--dataset.reset_time_s=0.1",
            "--dataset.num_episodes=3",
            f"--rl.output={tmp_path / 'run'}",
        ]
        yield servos, words


@pytest.mark.realtime
def test_an_so101_is_driven_behind_the_safety_filter_and_labelled_until_it_is_lost(
    so101, tmp_path, monkeypatch
):
    servos, words = so101
    servos.writes()
    labels = iter(["f", "s", "d"])

    def ask(loop: Loop) -> None:
        label = next(labels)
        if label == "d":
            servos.pull()
        loop._keys.press(label)

    monkeypatch.setattr(Keys, "are_heard", True)
    monkeypatch.setattr(Loop, "_ask", ask)
    arguments = parse(words)
    for camera in arguments.robot.cameras.values():
        # A pipe cannot be told its size, as a device can.
        camera.width = camera.height = camera.fps = None
    with pytest.raises(RobotLost, match="port"):
        play(arguments)
    lines = [json.loads(line) for line in (tmp_path / "run" / "episodes.jsonl").open()]
    assert [line["label"] for line in lines] == ["failure", "success", "discard"]
    assert [line["episode_return"] for line in lines] == [0.0, 1.0, 0.0]
    assert load_checkpoint(tmp_path / "run").counters["episodes"] == 2
    goals = [goal for _, goal in servos.writes()]
    assert len(goals) > 2 * RATE
    jumps = [abs(a[n] - b[n]) for a, b in itertools.pairwise(goals) for n in a if n in b]
    assert 0.0 < max(jumps) <= 2 * 3.0 / RATE + 0.01  # max_velocity for two periods
    assert all(servos.torque().values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing required field.* `robot`"),
        (["--robot.type=so102"], "robot: expected a type out of .*, found 'so102'"),
        (["--robot.type=so101_follower"], r"Missing required field\(s\) `port`"),
        ([SIMULATED[0]], "base_policy_path: expected a checkpoint's folder, found none"),
        ([*SIMULATED, "--speed=3"], "unrecognized arguments: --speed=3"),
        ([*SIMULATED, "--learning_rate=fast"], "Couldn't parse 'fast' into a float"),
        ([*SIMULATED, "--num_episodes=0"], "num_episodes: expected 1 or more, found 0"),
        ([*SIMULATED, "--rl.unlabelled=success"], "expected wait or failure or discard"),
        ([*SIMULATED, "--device=cuda:9"], "device: expected a torch device of this machine"),
        ([*SIMULATED, "--base_policy_path=none"], "base checkpoint none: expected a folder"),
        ([*SIMULATED, "--residual_checkpoint_path=none"], "residual checkpoint none: expected"),
        ([*SIMULATED, "--residual_checkpoint_path=a.pt"], "found a pickle.*converts it"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["finetune-local", *words])
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert re.search(message, lines[0]), lines[0]
    assert not list(tmp_path.iterdir())


def test_a_run_is_not_written_over(finished, config):
    with pytest.raises(ValueError, match=r"rl\.output: expected a new folder, found a run in"):
        LocalSession(simulated(config, finished / "run"))
