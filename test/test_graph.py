"""The real graph: five processes on real topics, for a few short episodes."""

import json
import signal
from pathlib import Path

import graph
import psutil
import pytest
from robot_graph import isolated
from safetensors.numpy import load_file

from residual_smolvla_ros.recording.bag_reader import Bag
from residual_smolvla_ros.recording.session import image_topic, read_session
from residual_smolvla_ros.records import (
    EPISODE_EVENT,
    REWARD,
    STEP,
    WEIGHTS,
    Record,
    Schema,
    unpack,
)
from residual_smolvla_ros.training import command

# Each run gets the next one. Above 101 their ports are in the range of outgoing connections.
DOMAIN = 60


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return graph.write_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, config) -> Path:
    """A recorded run of three updates, from base evaluation to report."""
    output = tmp_path_factory.mktemp("run") / "a"
    code, text = graph.run(
        DOMAIN, "finetune", config=config, output=output, episodes=6, eval_episodes=2, record="true"
    )
    assert code == 0, text
    return output


def checkpoint_bytes(run: Path) -> dict[str, bytes]:
    newest = max((run / "checkpoints").iterdir(), key=lambda p: p.name)
    return {p.name: p.read_bytes() for p in newest.iterdir() if p.suffix == ".safetensors"}


def test_a_run_leaves_every_file_that_the_readme_names(finished):
    names = {p.name for p in finished.iterdir()}
    assert names >= {"report.html", "summary.json", "learning_curve.png", "clip.gif",
                     "checkpoints", "tensorboard", "episodes.jsonl", "updates.jsonl"}  # fmt: skip
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["episodes"] == 6
    assert summary["updates"] == 3
    assert summary["eval_episodes"] == 2
    assert summary["env_steps"] <= 6 * 12
    for key in ("success_base_ci95", "success_residual_ci95"):
        low, high = summary[key]
        assert 0.0 <= low <= high <= 1.0


def test_no_step_is_lost_between_policy_and_learner(finished):
    played = [json.loads(line) for line in (finished / "episodes.jsonl").read_text().splitlines()]
    trained = sum(o["steps"] for o in played if o["phase"] in ("warmup", "train"))
    updates = (finished / "updates.jsonl").read_text().splitlines()
    assert json.loads(updates[-1])["env_steps"] == trained
    assert "were lost" not in (finished / "log" / "learner.log").read_text()


def test_every_message_of_the_run_is_in_its_bag_once(finished):
    """The simulator waits for the policy, not for the recorder."""
    played = [json.loads(line) for line in (finished / "episodes.jsonl").read_text().splitlines()]
    with Bag(finished / "bag") as bag:
        assert not bag.truncated
        assert read_session(bag).parameter_files

        def records(topic: str, schema: Schema) -> list[Record]:
            decoded = (bag.decode(message) for message in bag.messages([topic]))
            return [unpack(schema, message.data.tobytes()) for message in decoded]

        def stamps(topic: str) -> list[int]:
            decoded = (bag.decode(message).header.stamp for message in bag.messages([topic]))
            return [stamp.sec * 10**9 + stamp.nanosec for stamp in decoded]

        steps = records("policy/step", STEP)
        rewards = [r.metadata["stamp"] for r in records("reward", REWARD)]
        events = [r.metadata["event"] for r in records("episode/event", EPISODE_EVENT)]
        versions = [r.metadata["version"] for r in records("learner/weights", WEIGHTS)]
        commanded = [s.metadata["stamp"] for s in steps if not s.metadata["final"]]
        first = {s.metadata["stamp"] for s in steps if s.metadata["tick"] == 0}
        assert len(commanded) == len(set(commanded)) == sum(o["steps"] for o in played)
        assert sorted(rewards) == sorted(commanded)
        # A state that waits is repeated, and so is its command.
        assert set(stamps("joint_trajectory")) == set(commanded)
        assert set(stamps("joint_states")) >= {s.metadata["stamp"] for s in steps}
        assert (events.count("prepare"), events.count("end")) == (len(played), len(played))
        assert versions == [0, 1, 2, 3]
        for camera in ("front", "wrist"):  # each episode begins with a plan
            assert first <= set(stamps(image_topic(camera)))
    assert "0 missing" in (finished / "log" / "recorder.log").read_text()


def test_what_the_run_did_is_found_again_in_its_bag(finished):
    """The learner's weights, each action and each reward, to the bit."""
    graph.check_bag(finished / "bag")


def test_begun_without_ros_and_resumed_in_the_graph_a_run_ends_in_the_same_bits(
    finished, tmp_path, config
):
    """Neither an interruption nor what plays the episodes may show in the weights."""
    arguments = {"config": config, "output": tmp_path / "b", "eval_episodes": 2}
    words = {name: str(value) for name, value in (arguments | {"episodes": 4}).items()}
    with isolated(DOMAIN + 1):  # in this process, which has LeRobot loaded
        assert command.run(words | {"num_envs": "1"}) == 0
    code, text = graph.run(DOMAIN + 1, "finetune", episodes=6, resume="true", **arguments)
    assert code == 0, text
    assert checkpoint_bytes(tmp_path / "b") == checkpoint_bytes(finished)
    there, here = (json.loads((r / "summary.json").read_text()) for r in (finished, tmp_path / "b"))
    for name in ("success_base", "success_residual", "env_steps", "updates"):
        assert there[name] == here[name]


@pytest.mark.realtime
def test_in_real_time_every_step_that_an_episode_counts_was_the_policys(tmp_path):
    """The simulator goes on between episodes: its first steps after a reset are nobody's.

    TD3 updates beside the episodes, which need not wait for the newest weights.
    """
    output = tmp_path / "r"
    off_policy = {"algorithm": "td3", "learning_starts": 10, "actor_starts": 10, "critics": 2}
    config = graph.write_config(tmp_path, learner=graph.SETTINGS["/**/learner"] | off_policy)
    code, text = graph.run(
        DOMAIN + 7, "finetune", config=config, output=output, episodes=4, eval_episodes=0,
        lockstep="false",
    )  # fmt: skip
    assert code == 0, text
    outcomes = [json.loads(line) for line in (output / "episodes.jsonl").open()]
    trained = [o for o in outcomes if o["phase"] in ("warmup", "train")]
    assert [o["weights_version"] for o in trained] == [0, 0, 0, 0]
    steps = [o["steps"] for o in trained]
    updates = [json.loads(line) for line in (output / "updates.jsonl").open()]
    assert [u["env_steps"] for u in updates] == [sum(steps[:2]), sum(steps[:4])]
    assert "were lost" not in (output / "log" / "learner.log").read_text()


def test_another_seed_ends_in_other_weights_and_ctrl_c_keeps_a_checkpoint(
    finished, tmp_path, config
):
    output = tmp_path / "c"
    process = graph.start(
        DOMAIN + 2, "finetune", config=config, output=output, eval_episodes=0, seed=1
    )
    try:
        third = output / "checkpoints" / "000003" / "state.json"
        graph.wait_until(third.is_file, process)
        nodes = graph.children(process)
        process.send_signal(signal.SIGINT)
        # The issue allows 5 s; the rest is for a loaded machine.
        process.wait(timeout=15)
    finally:
        graph.stop(process)
    assert set(nodes) == {"so101_sim", "policy", "reward", "learner", "episode"}
    assert not any(psutil.pid_exists(pid) for pid in nodes.values())
    other = load_file(third.parent / "residual.safetensors")
    same_step = load_file(finished / "checkpoints" / "000003" / "residual.safetensors")
    assert any((other[name] != same_step[name]).any() for name in other)


def test_a_node_that_refuses_its_parameters_ends_the_run_with_one_line(tmp_path):
    config = graph.write_config(tmp_path, reward={"terms": {"sucess": {"weight": 1.0}}})
    code, text = graph.run(
        DOMAIN + 6, "evaluate", config=config, output=tmp_path / "g", eval_episodes=1
    )
    assert code == 1
    (error,) = [line for line in text.splitlines() if line.startswith("reward: error:")]
    assert "'sucess'" in error
    assert "node reward ended with exit code 1" in text
    assert "Traceback" not in text


def test_no_node_lives_on_after_its_starter_was_killed(tmp_path, config):
    output = tmp_path / "f"
    process = graph.start(DOMAIN + 5, "finetune", config=config, output=output, eval_episodes=1)
    try:
        graph.wait_until(lambda: len(graph.children(process)) == 5, process)
        nodes = [psutil.Process(pid) for pid in graph.children(process).values()]
        process.kill()
        _, alive = psutil.wait_procs(nodes, timeout=30)
    finally:
        graph.stop(process)
    assert not alive


def test_evaluate_compares_a_saved_residual_with_the_base(finished, tmp_path, config):
    code, text = graph.run(
        DOMAIN + 4,
        "evaluate",
        config=config,
        output=tmp_path / "e",
        eval_episodes=2,
        residual_checkpoint=finished,
    )
    assert code == 0, text
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    before = json.loads((finished / "summary.json").read_text())
    assert summary["success_base"] == before["success_base"]
    assert summary["success_residual"] == before["success_residual"]
    assert summary["env_steps"] == 0
