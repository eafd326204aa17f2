"""The learner's updates of a session redone from its bag: the same bits, or what differs."""

import dataclasses
import json

import made_session as made
import pytest
from test_rollout_assembly import make_reward, make_step, stamp_of

from residual_smolvla_ros import cli
from residual_smolvla_ros.errors import BagError
from residual_smolvla_ros.learning.checkpoint import save_checkpoint
from residual_smolvla_ros.learning.intake import SILENCE_S, Intake
from residual_smolvla_ros.learning.run import LearnerRun
from residual_smolvla_ros.learning.schedule import VALIDATION, EpisodePlan
from residual_smolvla_ros.learning.settings import make_learner
from residual_smolvla_ros.recording import cdr
from residual_smolvla_ros.recording.bag_reader import Bag, Message
from residual_smolvla_ros.recording.checks.learner import check_learner
from residual_smolvla_ros.recording.session import (
    RECORD,
)
from residual_smolvla_ros.records import EPISODE_EVENT, REWARD, STEP, WEIGHTS, pack, unpack
from residual_smolvla_ros.robots.units import JOINT_NAMES

LEARNER = {
    "features": ["episode_time"],
    "action_space": "joint",
    "joint_names": [JOINT_NAMES[0]],
    "hidden_sizes": [8],
    "episodes_per_update": 1,
    "warmup_updates": 1,
    "seed": 3,
}


def event(name: str, episode: int, steps: int, good: bool = False, **plan) -> bytes:
    plan = EpisodePlan(episode, plan.get("phase", "train"), plan.get("index", episode - 1), episode,
                       steps, weights_version=plan.get("version", 0))  # fmt: skip
    return pack(EPISODE_EVENT, event=name, episode=episode, plan=plan.to_json(),
                reason="terminated", success=good, label="success" if good else "failure",
                last_stamp=stamp_of(episode, steps - 1), steps=steps)  # fmt: skip


def learner_session(folder, settings=None, **changes) -> list[Message]:
    """Four updates, of which one is rolled back; a step of the second episode is lost.

    `settings` are changed while an episode of this number runs.
    """
    learner = make_learner(lambda n, d, _: LEARNER.get(n, d), (JOINT_NAMES[0],), None, 3)
    run, now, messages = LearnerRun(folder, learner, {}, False), [10.0], []

    def add(topic: str, blob: bytes) -> None:
        messages.append(Message(topic, RECORD, made.record(blob), int(now[0] * 1e9)))

    intake = Intake(run, lambda blob: add("learner/weights", blob), lambda text: None,
                    clock=lambda: now[0])  # fmt: skip
    messages.append(
        made.described_with("learner", LEARNER | {"executed_commands": False}, **changes)
    )
    add("learner/weights", intake.weights())
    for episode in range(1, 5):
        for tick in range(4):
            now[0] += 0.03
            intake.watch()
            if tick == 1:
                learner.change((settings or {}).get(episode, {}))
            step, reward = make_step(episode, tick), make_reward(episode, tick)
            add("policy/step", pack(STEP, step.tensors, **step.metadata))
            intake.take_step(step)
            if (episode, tick) != (2, 2):
                add("reward", pack(REWARD, reward.tensors, **reward.metadata))
                intake.take_reward(reward)
        end = event("end", episode, 4)
        add("episode/event", end)
        intake.take_event(unpack(EPISODE_EVENT, end))
        now[0] += SILENCE_S + 1.0  # longer than a record may take
        intake.watch()
        if episode in (1, 3):
            verdict = event("validated", episode, 4, good=episode == 1, phase=VALIDATION,
                            version=episode)  # fmt: skip
            add("episode/event", verdict)
            intake.take_event(unpack(EPISODE_EVENT, verdict))
    run.close()
    return messages


def test_all_updates_of_a_session_redone_end_in_its_bits(tmp_path):
    """Also after a rollback, and after an episode that was cut since a reward did not come."""
    with Bag(made.write(tmp_path / "bag", learner_session(tmp_path / "run"))) as bag:
        report = check_learner(bag)
    assert report.agrees, str(report)
    assert [number for number, row in made.rows(report).items() if row[-1] == "equal"] == list(
        "012345"
    )
    assert "2 of 4 steps were lost" in str(report)
    assert "rolled back" in str(report)


def test_updates_with_settings_that_were_changed_meanwhile_are_redone_in_their_bits(tmp_path):
    """Each version tells what it was made with; the parameter file does not know."""
    settings = {2: {"actor_learning_rate": 0.1, "log_std_max": -2.5}, 3: {"action_scale": 0.5}}
    with Bag(made.write(tmp_path / "bag", learner_session(tmp_path / "run", settings))) as bag:
        report = check_learner(bag)
    assert report.agrees, str(report)
    told = [unpack(WEIGHTS, cdr.decode(RECORD, m.data).data.tobytes()).metadata
            for m in learner_session(tmp_path / "again", settings)
            if m.topic == "learner/weights"]  # fmt: skip
    found = [json.loads(m["progress"]).get("settings") for m in told]
    assert found[0] is found[1] is None
    assert found[2] == {"actor_learning_rate": 0.1, "log_std_max": -2.5}
    assert found[3] == found[2] | {"action_scale": 0.5}
    # Rolled back to a version of the old scale, which `policy` reads in the configuration.
    assert [json.loads(m["config"])["action_scale"] for m in told] == [1.0, 1.0, 1.0, 0.5, 1.0, 1.0]


def test_a_reward_that_the_bag_lacks_is_seen_in_the_version_that_it_led_to(tmp_path):
    messages = learner_session(tmp_path / "run")
    bag = made.write(tmp_path / "bag", made.without(messages, "reward", 9))  # of episode 3
    with Bag(bag) as opened:
        report = check_learner(opened)
    assert not report.agrees
    found = made.rows(report)
    assert found["2"][-1] == "equal"
    assert "values differ" in " ".join(found["3"])


def test_a_resumed_session_needs_its_checkpoint_and_goes_on_from_it(tmp_path):
    messages = learner_session(tmp_path / "run", resumed=True)
    weights = [m for m in messages if m.topic == "learner/weights"]
    record = unpack(WEIGHTS, cdr.decode(RECORD, weights[0].data).data.tobytes())
    with Bag(made.write(tmp_path / "bag", messages)) as bag:
        with pytest.raises(BagError, match="checkpoint:=<folder>, since the session was resumed"):
            check_learner(bag)
        untouched = make_learner(lambda n, d, _: LEARNER.get(n, d), (JOINT_NAMES[0],), None, 3)
        path = save_checkpoint(
            tmp_path / "from", untouched.residual, untouched.weights(),
            untouched.algorithm.state(), dataclasses.asdict(untouched.counters),
            {"algorithm": "ppo", "episodes_per_update": 1, "warmup_updates": 1},
        )  # fmt: skip
        report = check_learner(bag, checkpoint=str(path))
    assert record.metadata["version"] == 0
    assert report.agrees, str(report)


def test_a_bag_that_is_cut_off_is_checked_only_where_that_is_allowed(tmp_path, capsys):
    bag = made.write(tmp_path / "bag", learner_session(tmp_path / "run"))
    file = bag / "bag_0.mcap"
    content = file.read_bytes()
    (bag / "metadata.yaml").unlink()
    file.write_bytes(content[: content.rindex(b"\x89MCAP0\r\n") - 40])  # the end of its index
    with pytest.raises(SystemExit) as ended:
        cli.main(["replay", f"bag:={bag}", "check:=learner"])
    assert ended.value.code == 2
    assert "truncated:=allow" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["replay", f"bag:={bag}", "check:=learner", "truncated:=allow"])
    assert ended.value.code == 0
