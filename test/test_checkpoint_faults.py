"""Checkpoints that are cut, changed, foreign or unwritten: the last good one is found and named."""

import contextlib
import dataclasses
import itertools
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch

from residual_smolvla_ros.errors import CheckpointError
from residual_smolvla_ros.learning.checkpoint import load_checkpoint, save_checkpoint
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.ppo import PPOConfig
from residual_smolvla_ros.learning.run import LearnerRun
from residual_smolvla_ros.learning.td3 import TD3Config
from residual_smolvla_ros.learning.td3_learner import TD3Learner

FILES = ("residual.safetensors", "training.safetensors", "state.json")
PPO = PPOConfig(epochs=1, minibatch_size=8, target_kl=1e9)
TD3 = TD3Config(batch_size=8, critics=2, replay_size=60, learning_starts=8, actor_starts=8)


@pytest.fixture
def begin(config, tmp_path):
    """Return a function that begins or resumes the run in tmp_path with an update an episode."""
    runs = []

    def make(resume: bool = False, td3: bool = False, **settings) -> LearnerRun:
        residual = dataclasses.replace(config, squash=td3)
        kind, how = (TD3Learner, TD3) if td3 else (Learner, PPO)
        runs.append(LearnerRun(tmp_path, kind(residual, how, 1, 0), settings, resume))
        return runs[-1]

    yield make
    for run in runs:
        run.close()


@pytest.fixture
def update(make_episode):
    """Return a function that makes an update and keeps it."""
    return lambda run, seed: run.keep(run.learner.add_episode(make_episode(seed)))


def state_of(learner: Learner) -> dict[str, torch.Tensor]:
    return learner.weights() | {f"state.{k}": v for k, v in learner.algorithm.state().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def boundaries(data: bytes) -> list[int]:
    """Where safetensors' length, header and tensors begin and end, and one beside each."""
    header = 8 + int.from_bytes(data[:8], "little") if data[0] != ord("{") else len(data) // 2
    edges = [0, 4, 8, (8 + header) // 2, header, (header + len(data)) // 2, len(data)]
    return sorted({n for edge in edges for n in (edge - 1, edge, edge + 1) if 0 <= n < len(data)})


@pytest.fixture
def two(tmp_path, config) -> Path:
    """The checkpoints of two versions of two small tensors."""
    for version in (1, 2):
        weights = {"w": torch.full((3,), float(version))}
        save_checkpoint(tmp_path, config, weights, weights, {"version": version}, {})
    return tmp_path


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("flip", [False, True], ids=["cut", "flipped"])
def test_a_damaged_newest_one_is_passed_over_and_the_last_good_one_named(two, caplog, name, flip):
    file = two / "000002" / name
    whole = file.read_bytes()
    for position in boundaries(whole):
        changed = bytearray(whole if flip else whole[:position])
        if flip:
            changed[position] ^= 1 << position % 8
        file.write_bytes(changed)
        caplog.clear()
        found = load_checkpoint(two, training=True)
        value = float(found.counters["version"])
        assert found.weights["w"].tolist() == found.training["w"].tolist() == [value] * 3
        if value == 1.0:
            (line,) = caplog.messages
            assert f"{two / '000002'}: expected a complete checkpoint, found: " in line
            assert line.endswith(f"the last good one is taken: {two / '000001'}")
        else:  # without the newline at its end
            assert (name, flip, position) == ("state.json", False, len(whole) - 1)


def test_sums_whose_own_name_has_changed_are_not_taken_for_none(two):
    """One without sums, of before there were any, is loaded unseen."""
    file = two / "000002" / "state.json"
    file.write_text(file.read_text().replace('"sha256"', '"sha257"'))
    assert load_checkpoint(two).counters == {"version": 1}


def test_a_damaged_one_that_is_asked_for_is_refused_and_the_last_good_one_named(two):
    (two / "000002" / FILES[1]).unlink()
    assert load_checkpoint(two / "000002").counters == {"version": 2}  # its weights are whole
    with pytest.raises(CheckpointError, match=f"000002: .*; the last good one is {two / '000001'}"):
        load_checkpoint(two / "000002", training=True)
    shutil.rmtree(two / "000001")
    with pytest.raises(CheckpointError, match="; no good one is beside it"):
        load_checkpoint(two, training=True)


def test_a_newer_format_is_not_passed_over_as_if_it_were_damage(two, config, monkeypatch):
    """Else an older package would go on from before what the newer one has trained."""
    with monkeypatch.context() as patch:
        patch.setattr("residual_smolvla_ros.learning.checkpoint.FORMAT", 2)
        save_checkpoint(two, config, {}, {}, {"version": 3}, {})
    with pytest.raises(CheckpointError, match=f"format 1, found 2; the last good one is {two}/000"):
        load_checkpoint(two)


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the package catches it."""


def test_a_save_that_is_killed_at_any_call_leaves_the_old_version_or_the_new_one(
    two, config, monkeypatch
):
    """Saving a version again deleted the old one first: killed then, the run had lost both."""
    weights, before = {"w": torch.full((3,), 9.0)}, {1.0, 2.0, 9.0}
    shutil.rmtree(two / "000001")
    for limit in itertools.count():
        calls = itertools.count()
        with monkeypatch.context() as patch:
            for name in ("mkdir", "fsync", "rename", "unlink", "rmdir"):
                call = getattr(os, name)

                def counted(*args, _call=call, _calls=calls, _limit=limit, **settings):
                    if next(_calls) >= _limit:
                        raise Killed
                    return _call(*args, **settings)

                patch.setattr(os, name, counted)
            try:
                save_checkpoint(two, config, weights, weights, {"version": 2}, {})
                break
            except Killed:
                pass
        found = load_checkpoint(two, training=True)
        assert found.weights["w"].tolist() == found.training["w"].tolist()
        assert found.weights["w"][0].item() in before
    assert limit > 8
    assert {path.name for path in two.iterdir()} == {"000002"}


@contextlib.contextmanager
def no_room(size: int):
    """Let files grow to so many bytes only: it stands for a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_no_part_of_a_checkpoint_and_names_the_last_good_one(two, config):
    names = {path.name for path in two.iterdir()}
    for size in (0, 1, 100, 600):
        with (
            no_room(size),
            pytest.raises(CheckpointError, match=r"000003: .*File too large.*000002$"),
        ):
            save_checkpoint(two, config, {}, {}, {"version": 3}, {})
        assert {path.name for path in two.iterdir()} == names


def test_an_update_that_cannot_be_kept_leaves_learner_and_files_as_they_were(
    begin, update, tmp_path, monkeypatch
):
    """First the checkpoint finds no room, then, with that one written, the line of its metrics."""
    run = begin()
    update(run, 1)
    run._board.flush()  # its thread must not meet the limit
    state, lines = state_of(run.learner), (tmp_path / "updates.jsonl").read_text()
    for save in (run.save, lambda: None):
        monkeypatch.setattr(run, "save", save)
        with (
            no_room(len(lines) + 20),
            pytest.raises(CheckpointError, match=r"File too large|space"),
        ):
            run.keep({})
    assert same(state_of(run.learner), state)
    assert (tmp_path / "updates.jsonl").read_text() == lines
    assert load_checkpoint(tmp_path).counters["version"] == 1


def test_a_folder_that_cannot_be_written_is_named(begin, tmp_path, monkeypatch):
    def refuse(path, *args):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(CheckpointError, match=f"{tmp_path}.*expected .*, found: .*denied"):
        begin()


# -- resuming --------------------------------------------------------------------------------


@pytest.mark.parametrize("td3", [False, True], ids=["ppo", "td3"])
def test_a_resumed_run_goes_on_from_the_last_good_one_and_no_later_one_from_the_damaged(
    begin, update, tmp_path, caplog, td3
):
    """With TD3 the rows that no checkpoint counts any more made the next resume impossible."""
    run = begin(td3=td3)
    for seed in (1, 2):
        update(run, seed)
    good, whole = tmp_path / "checkpoints" / "000001", load_checkpoint(tmp_path, training=True)
    file = whole.path / "training.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    resumed = begin(resume=True, td3=td3)
    assert resumed.learner.counters.version == 1
    assert "it is 000002.damaged now" in caplog.text
    assert f"the run goes on from {good}" in caplog.text
    resumed.keep(resumed.learner.add_episode(longer_episode(resumed.learner)))
    again = begin(resume=True, td3=td3)
    assert same(state_of(again.learner), state_of(resumed.learner))


def longer_episode(learner: Learner):
    """One of another length than before: the replay's files get other names."""
    from residual_smolvla_ros.learning.rollout import Episode

    episode, config = Episode(success=True), learner.residual
    for _ in range(13):
        features, residual = (torch.zeros(n).numpy() for n in (config.feature_size, 6))
        episode.add_step(1.0, True, features, residual, 0.0, 0.0)
    return episode


def test_rows_of_a_replay_that_are_damaged_send_td3_back_to_a_checkpoint_before_them(
    begin, update, tmp_path
):
    run = begin(td3=True)
    for seed in (1, 2):
        update(run, seed)
    newest = sorted((tmp_path / "checkpoints" / "replay").glob("*.safetensors"))[-1]
    data = bytearray(newest.read_bytes())
    data[-100] ^= 1
    newest.write_bytes(data)
    assert begin(resume=True, td3=True).learner.counters.version == 1


@pytest.mark.parametrize("name", ["seed", "base"])
def test_another_run_is_not_resumed(begin, update, tmp_path, name):
    """A residual belongs to its base, and the scenes of a run to its seed."""
    bases = [tmp_path / "a", tmp_path / "b"]
    for base in bases:
        base.mkdir()
        (base / "model.safetensors").write_bytes(base.name.encode())
    mine = {"seed": 1, "base_checkpoint": str(bases[0])}
    update(begin(**mine), 1)
    shutil.copytree(bases[0], tmp_path / "moved")
    begin(resume=True, **mine | {"base_checkpoint": str(tmp_path / "moved")})
    other = {"seed": {"seed": 2}, "base": {"base_checkpoint": str(bases[1])}}[name]
    with pytest.raises(CheckpointError, match=f"000001: expected {name}.*, found "):
        begin(resume=True, **mine | other)


@pytest.mark.parametrize("td3", [False, True], ids=["ppo", "td3"])
def test_a_training_state_that_fits_in_part_only_changes_nothing(begin, update, tmp_path, td3):
    """The random state was taken before the optimiser's was found not to fit."""
    update(begin(td3=td3), 1)
    found = load_checkpoint(tmp_path, training=True)
    (name,) = [n for n in found.training if "optimiser.0.exp_avg" in n and "_sq" not in n][:1]
    shutil.rmtree(tmp_path / "checkpoints" / "replay", ignore_errors=True)
    rows = {"rows": torch.tensor(0)} if td3 else {}
    found.training.update({name: torch.zeros(2)} | rows)
    learner = (TD3Learner if td3 else Learner)(found.config, TD3 if td3 else PPO, 1, 0)
    before = state_of(learner)
    with pytest.raises(CheckpointError, match=rf"found: {name} of shape \(2,\)"):
        learner.resume(found)
    assert same(state_of(learner), before)
