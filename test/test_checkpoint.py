"""Checkpoints: a resumed run goes on to the bit, and what does not fit is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from residual_smolvla_ros.errors import CheckpointError
from residual_smolvla_ros.learning.checkpoint import (
    checkpoints,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.ppo import PPOConfig

SETTINGS = PPOConfig(epochs=2, minibatch_size=8, target_kl=1e9)


def make_learner(config, **changes) -> Learner:
    """A learner of two episodes an update, the first of the critic alone."""
    return Learner(
        dataclasses.replace(config, **changes), SETTINGS, episodes_per_update=2, warmup_updates=1
    )


@pytest.fixture
def train(make_episode):
    """Return a function that feeds a learner the episodes of these seeds."""

    def feed(learner: Learner, seeds) -> list[dict]:
        return [learner.add_episode(make_episode(seed, truncated=seed % 3 > 0)) for seed in seeds]

    return feed


@pytest.fixture
def trained(config, train) -> Learner:
    """A learner after a warm-up update and one of actor and critic."""
    learner = make_learner(config)
    train(learner, range(4))
    return learner


@pytest.fixture
def saved(trained, tmp_path) -> Path:
    """Its run folder, with the checkpoint of version 2."""
    trained.save(tmp_path / "checkpoints", {"base_checkpoint": "somewhere"})
    return tmp_path


def same_bits(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


def test_what_is_saved_is_what_is_loaded(trained, saved, config):
    found = load_checkpoint(saved / "checkpoints" / "000002")
    assert found.config == config
    # Equal dictionaries may differ in order, and the network's input is in that order.
    assert list(found.config.features) == list(config.features) != sorted(config.features)
    assert found.counters == {"version": 2, "episodes": 4, "env_steps": 32,
                              "rollbacks": 0, "accepted": 0}  # fmt: skip
    assert found.run["base_checkpoint"] == "somewhere"
    assert same_bits(found.weights, trained.weights())
    assert found.training == {}


def test_a_resumed_run_ends_in_the_same_bits_as_one_that_never_stopped(trained, saved, train):
    resumed = make_learner(trained.residual)
    resumed.resume(load_checkpoint(saved, training=True))
    assert train(resumed, range(4, 9)) == train(trained, range(4, 9))
    assert same_bits(resumed.weights(), trained.weights())
    assert resumed.counters == trained.counters
    # Of the last update; one episode is waiting for the next.
    assert (resumed.counters.version, resumed.counters.episodes, resumed.collected) == (4, 8, 1)


def test_a_run_resumed_within_the_warm_up_goes_on_to_the_bit(config, train, tmp_path):
    """After a warm-up update the optimiser has no state of the actor yet."""
    never_stopped, resumed = make_learner(config), make_learner(config)
    train(never_stopped, range(2))
    never_stopped.save(tmp_path, {})
    resumed.resume(load_checkpoint(tmp_path, training=True))
    train(never_stopped, range(2, 6))
    train(resumed, range(2, 6))
    assert same_bits(resumed.weights(), never_stopped.weights())


def test_starting_from_a_checkpoint_takes_its_weights_and_not_its_counters(trained, saved):
    learner = make_learner(trained.residual)
    learner.load(load_checkpoint(saved))
    assert same_bits(learner.weights(), trained.weights())
    assert learner.counters.version == 0


def test_a_warm_up_does_not_change_the_residual_that_a_run_starts_from(trained, saved, train):
    learner = make_learner(trained.residual)
    learner.load(load_checkpoint(saved))
    features = torch.ones(1, trained.residual.feature_size)
    before = learner.network(features)[0]
    train(learner, range(10, 12))
    assert learner.counters.version == 1
    assert torch.equal(learner.network(features)[0], before)


def test_the_newest_checkpoint_of_a_run_is_loaded(trained, saved, train):
    train(trained, range(4, 6))
    trained.save(saved / "checkpoints", {})
    assert load_checkpoint(saved).counters["version"] == 3
    assert load_checkpoint(saved / "checkpoints" / "000002").counters["version"] == 2


def test_what_an_interrupted_write_left_is_not_a_checkpoint(trained, saved, train):
    folder = saved / "checkpoints"
    # Killed while writing, before the rename.
    shutil.copytree(folder / "000002", folder / ".000003.tmp")
    assert checkpoints(saved) == [folder / "000002"]
    train(trained, range(4, 6))
    trained.save(folder, {})
    assert load_checkpoint(saved).counters["version"] == 3
    assert not (folder / ".000003.tmp").exists()


def test_saving_a_version_again_replaces_it_whole(trained, saved):
    (saved / "checkpoints" / "000002" / "stray").touch()
    path = trained.save(saved / "checkpoints", {"base_checkpoint": "elsewhere"})
    assert load_checkpoint(path).run["base_checkpoint"] == "elsewhere"
    names = {p.name for p in path.iterdir()}
    assert names == {"residual.safetensors", "training.safetensors", "state.json"}


def change_state(checkpoint: Path, **values) -> None:
    """Rewrite a state as one without sums, as it was of before there were any."""
    file = checkpoint / "state.json"
    state = json.loads(file.read_text()) | values
    del state["sha256"]
    file.write_text(json.dumps(state))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected a folder with state.json.*no such folder"):
        load_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match=f"{tmp_path}.*found no checkpoint in it"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["residual.safetensors", "training.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [truncate, Path.unlink], ids=["truncated", "missing"])
def test_a_damaged_file_is_refused(saved, name, damage):
    path = saved / "checkpoints" / "000002"
    damage(path / name)
    with pytest.raises(CheckpointError, match=f"residual checkpoint {path}: expected .* found"):
        load_checkpoint(path, training=True)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 1}', "null"])
def test_a_state_that_is_not_one_is_refused(saved, text):
    (saved / "checkpoints" / "000002" / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match="expected a complete checkpoint"):
        load_checkpoint(saved)


def test_another_format_is_refused_by_its_number(saved):
    change_state(saved / "checkpoints" / "000002", format=99)
    with pytest.raises(CheckpointError, match="expected format 1, found 99"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": {"state": 6, "privileged": 12}}, "features .*'privileged': 12.*, found .*"),
        ({"features": {"base_action": 6, "state": 6}}, "expected features .*, found .*"),
        ({"action_space": "gripper"}, "expected action_space gripper, found joint"),
        ({"action_scale": 0.5}, "expected action_scale 0.5, found 0.2"),
        ({"residual_clip": 1.0}, "expected residual_clip 1.0, found 2.0"),
        ({"hold_steps": 4}, "expected hold_steps 4, found 3"),
        ({"hidden_sizes": (9,)}, r"expected hidden_sizes \(9,\), found \(8, 8\)"),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_a_residual_of_another_kind_is_refused(saved, config, changes, message, resume):
    learner = make_learner(config, **changes)
    before = learner.weights()
    checkpoint = load_checkpoint(saved, training=True)
    with pytest.raises(CheckpointError, match=message):
        learner.resume(checkpoint) if resume else learner.load(checkpoint)
    assert same_bits(learner.weights(), before)
    assert learner.counters.version == 0


def test_weights_that_do_not_fit_their_own_configuration_are_refused(saved, config):
    file = saved / "checkpoints" / "000002" / "residual.safetensors"
    change_state(file.parent)
    weights = load_file(file)
    weights["actor.0.weight"] = weights["actor.0.weight"][:, :-1].contiguous()
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=r"residual checkpoint .*: expected .* found"):
        make_learner(config).load(load_checkpoint(saved))


def test_pruning_keeps_the_last_ones_and_every_nth(tmp_path, config):
    for version in range(9):
        save_checkpoint(tmp_path, config, {}, {}, {"version": version}, {})
    (tmp_path / "notes.txt").touch()
    prune_checkpoints(tmp_path, keep_last=2, keep_every=4)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"000000", "000004", "000007", "000008", "notes.txt"}


def test_an_update_tells_how_far_the_robot_departed_from_the_commands(config, make_episode):
    learner = make_learner(config)
    episodes = [make_episode(seed) for seed in (1, 2)]
    for episode in episodes:
        episode.commands = [np.zeros(6), np.zeros(6)]
        episode.executed = [np.full(6, 0.01), np.full(6, 3.0)]
    learner.add_episode(episodes[0])
    metrics = learner.add_episode(episodes[1])
    assert metrics["executed_gap"] == pytest.approx(1.505)
    assert metrics["executed_changed"] == 0.5
