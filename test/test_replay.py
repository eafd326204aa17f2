"""Replay: n-step returns against numbers computed by hand, what ends them, and the ring."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from residual_smolvla_ros.errors import CheckpointError
from residual_smolvla_ros.learning.replay import Replay, person_transitions, policy_transitions
from residual_smolvla_ros.learning.replay_files import read_rows, write_rows
from residual_smolvla_ros.learning.rollout import Episode

# Powers of two: the sums are exact.
GAMMA, N_STEP, CLIP = 0.5, 2, 1.0


def play(rewards, final=None, interventions=None, residuals=None, first=0) -> Episode:
    """An episode of one-step decisions whose feature and residual tell which decision it is."""
    episode = Episode()
    for index, reward in enumerate(rewards):
        episode.add_step(
            reward,
            decision=True,
            features=np.array([first + index], np.float32),
            residual=np.array([index / 8 if residuals is None else residuals[index]], np.float32),
            log_prob=0.0,
            value=0.0,
            intervention=bool(interventions and interventions[index]),
        )
    if final is not None:
        episode.final_features = np.array([final], np.float32)
    return episode


def table(rows) -> list[tuple]:
    """Usable rows as (feature, residual, n-step reward, discount, feature that follows)."""
    follow = rows.features[torch.arange(len(rows)) + rows.ahead]
    columns = (rows.features[:, 0], rows.residuals[:, 0], rows.rewards, rows.discounts)
    found = zip(*(column.tolist() for column in (*columns, follow[:, 0])), strict=True)
    return [row for row, usable in zip(found, rows.usable, strict=True) if usable]


def test_n_step_returns_by_hand_of_an_episode_that_terminated():
    (rows,) = policy_transitions(play([1.0, 2.0, 4.0]), GAMMA, N_STEP, CLIP)
    assert table(rows) == [
        (0.0, 0.0, 1.0 + 0.5 * 2.0, 0.25, 2.0),
        (1.0, 0.125, 2.0 + 0.5 * 4.0, 0.0, 1.0),  # nothing follows: no value counts
        (2.0, 0.25, 4.0, 0.0, 2.0),
    ]


def test_n_step_returns_by_hand_of_an_episode_that_was_truncated():
    (rows,) = policy_transitions(play([1.0, 2.0, 4.0], final=9.0), GAMMA, N_STEP, CLIP)
    assert table(rows) == [
        (0.0, 0.0, 1.0 + 0.5 * 2.0, 0.25, 2.0),
        (1.0, 0.125, 2.0 + 0.5 * 4.0, 0.25, 9.0),
        (2.0, 0.25, 4.0, 0.5, 9.0),  # one step short of n: discounted once
    ]


@pytest.mark.parametrize("interventions", [None, [False, False, True]], ids=["policy", "person"])
def test_nothing_follows_a_time_limit_that_is_part_of_the_task(interventions):
    episode = play([1.0, 2.0, 4.0], final=9.0, interventions=interventions)
    episode.timed_out = True
    rows = policy_transitions(episode, GAMMA, N_STEP, CLIP, time_limit_ends=True)
    rows += person_transitions(episode, GAMMA, N_STEP, CLIP, 1, time_limit_ends=True)
    assert table(rows[-1])[-1] == (2.0, 0.25, 4.0, 0.0, 2.0)


def test_a_residual_is_kept_as_it_was_executed():
    (rows,) = policy_transitions(play([0.0, 0.0], residuals=[3.0, -3.0]), GAMMA, N_STEP, CLIP)
    assert rows.residuals[:, 0].tolist() == [CLIP, -CLIP]


def test_what_a_person_earned_is_not_credited_to_the_policy():
    episode = play([1.0, 8.0, 8.0, 2.0, 4.0], interventions=[False, True, True, False, False])
    before, after = policy_transitions(episode, GAMMA, N_STEP, CLIP)
    assert table(before) == [(0.0, 0.0, 1.0, 0.5, 1.0)]
    assert table(after) == [(3.0, 0.375, 2.0 + 0.5 * 4.0, 0.0, 3.0), (4.0, 0.5, 4.0, 0.0, 4.0)]


def test_control_steps_of_a_person_make_decisions_as_long_as_the_policys():
    """A person's records come every control step: as they are, each would be discounted alone."""
    residuals = [0.0, 0.25, 0.75, -0.5, 0.0]
    episode = play([1, 2, 4, 8, 16], interventions=[False, *3 * [True], False], residuals=residuals)
    (rows,) = person_transitions(episode, GAMMA, N_STEP, CLIP, hold_steps=2)
    assert table(rows) == [
        (1.0, 0.5, 2.0 + 4.0 + 0.5 * 8.0, 0.25, 4.0),
        (3.0, -0.5, 8.0, 0.5, 4.0),
    ]


def test_a_person_who_drives_at_the_time_limit_is_bootstrapped():
    episode = play([1, 2], final=9.0, interventions=[False, True], residuals=[0.0, 0.5])
    (rows,) = person_transitions(episode, GAMMA, N_STEP, CLIP, hold_steps=2)
    assert table(rows) == [(1.0, 0.5, 2.0, 0.5, 9.0)]


@pytest.mark.parametrize("residual", [0.0, 1.5], ids=["unknown", "out of bounds"])
def test_a_persons_decision_that_no_residual_expresses_is_left_out(residual):
    episode = play([1, 2], final=9.0, interventions=[True, True], residuals=[residual, 0.5])
    (rows,) = person_transitions(episode, GAMMA, N_STEP, CLIP, hold_steps=1)
    # It still is what the decision after it followed.
    assert table(rows) == [(1.0, 0.5, 2.0, 0.5, 9.0)]


def sampled(replay: Replay) -> dict[float, float]:
    """Which feature follows which, of all that is ever drawn."""
    batch = replay.sample(500, torch.Generator().manual_seed(0))
    return dict(zip(batch.features[:, 0].tolist(), batch.next_features[:, 0].tolist(), strict=True))


def test_a_full_replay_forgets_the_oldest_and_follows_across_its_end():
    replay = Replay(5, 1, 1)
    (first,) = policy_transitions(play(4 * [1.0], final=9.0), GAMMA, N_STEP, CLIP)
    replay.add(first)
    assert sampled(replay) == {0.0: 2.0, 1.0: 3.0, 2.0: 9.0, 3.0: 9.0}
    (second,) = policy_transitions(play(2 * [1.0], final=7.0, first=10), GAMMA, N_STEP, CLIP)
    replay.add(second)  # three rows, in the places of decisions 0, 1 and 2
    assert sampled(replay) == {3.0: 9.0, 10.0: 7.0, 11.0: 7.0}
    (third,) = policy_transitions(play(3 * [1.0], first=20), GAMMA, N_STEP, CLIP)
    replay.add(third)  # from the last but one place to the first
    assert sampled(replay) == {11.0: 7.0, 20.0: 22.0, 21.0: 21.0, 22.0: 22.0}


def test_an_episode_longer_than_the_replay_leaves_its_end():
    replay = Replay(3, 1, 1)
    (rows,) = policy_transitions(play(6 * [1.0]), GAMMA, N_STEP, CLIP)
    replay.add(rows)
    assert sorted(sampled(replay)) == [3.0, 4.0, 5.0]


def test_rows_come_back_from_disk_in_their_order_up_to_a_total(tmp_path):
    parts = [policy_transitions(play([r], final=r), GAMMA, N_STEP, CLIP)[0] for r in range(3)]
    for total, part in zip((2, 4, 6), parts, strict=True):
        write_rows(tmp_path, total, [("own", part)], {"gamma": "0.5"})
    read = read_rows(tmp_path, {"gamma": "0.5"}, total=4)
    assert [(name, rows.rewards[0].item()) for name, rows in read] == [("own", 0.0), ("own", 1.0)]


def test_rows_of_another_discount_and_damaged_ones_are_refused(tmp_path):
    (rows,) = policy_transitions(play([1.0]), GAMMA, N_STEP, CLIP)
    write_rows(tmp_path, 1, [("own", rows)], {"gamma": "0.5"})
    with pytest.raises(CheckpointError, match=r"expected \{'gamma': '0.9'\}, found .*0.5"):
        read_rows(tmp_path, {"gamma": "0.9"})
    (file,) = tmp_path.iterdir()
    tensors = load_file(file)
    del tensors["own.ahead"]
    save_file(tensors, file, metadata={"gamma": "0.5"})
    with pytest.raises(CheckpointError, match=r"expected a complete file, found: .*own.ahead"):
        read_rows(tmp_path, {"gamma": "0.5"})
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="expected a complete file"):
        read_rows(tmp_path, {"gamma": "0.5"})
