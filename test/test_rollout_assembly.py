"""Steps and rewards of episodes arrive on several topics: late, twice, out of order, or never.

In these episodes the feature is the tick, the reward of tick n is 10 ** n (so that a sum says
which rewards went into it), and the stamp of tick n of episode e is 1000 e + 10 n.
"""

import random

import numpy as np
import pytest

from residual_smolvla_ros.learning.assembly import EpisodeAssembler, EpisodeEnd
from residual_smolvla_ros.learning.rollout import Episode
from residual_smolvla_ros.records import REWARD, STEP, Record, pack, unpack


def stamp_of(episode: int, tick: int) -> int:
    return 1000 * episode + 10 * tick


def make_step(
    episode: int, tick: int, final: bool = False, hold: int = 1, intervention: bool = False
) -> Record:
    names = ("features", "base", "residual", "command")
    blob = pack(
        STEP,
        {name: [float(tick)] for name in names} | {"log_prob": -tick, "value": 0.5 * tick},
        stamp=stamp_of(episode, tick),
        episode=episode,
        tick=tick,
        weights_version=7,
        decision=not final and tick % hold == 0,
        final=final,
        intervention=intervention,
        token_age_ms=-1,
        token_images={},
        plan_age_ms=-1,
        plan_images={},
        plan={},
    )
    return unpack(STEP, blob)


def make_reward(
    episode: int, tick: int, bonus: float = 0.0, label: str = "", missing: tuple = ()
) -> Record:
    stamp = stamp_of(episode, tick)
    blob = pack(
        REWARD,
        {"reward": 10.0**tick + bonus, "terms": []},
        stamp=stamp,
        next_stamp=stamp + 10,
        success=False,
        terminated=False,
        label=label,
        names=(),
        missing=missing,
    )
    return unpack(REWARD, blob)


def make_records(episode: int = 1, steps: int = 4, truncated: bool = True, hold: int = 1) -> list:
    """Steps, rewards and end of an episode; a truncated one has the state after the last step."""
    records = [make_step(episode, tick, hold=hold) for tick in range(steps)]
    records += [make_reward(episode, tick) for tick in range(steps)]
    if truncated:
        records.append(make_step(episode, steps, final=True))
    return [*records, make_end(episode, steps, truncated)]


def make_end(episode: int, steps: int, truncated: bool, wanted: bool = True) -> EpisodeEnd:
    last = stamp_of(episode, steps - 1)
    return EpisodeEnd(episode, last, steps, truncated, success=not truncated, wanted=wanted)


def is_step(record, tick: int) -> bool:
    return isinstance(record, Record) and record.metadata.get("tick") == tick


def is_reward(record, tick: int) -> bool:
    if not isinstance(record, Record) or "next_stamp" not in record.metadata:
        return False
    return record["reward"] == 10.0**tick


def feed(records: list, assembler: EpisodeAssembler | None = None) -> EpisodeAssembler:
    assembler = assembler or EpisodeAssembler()
    for record in records:
        if isinstance(record, EpisodeEnd):
            assembler.add_end(record)
        elif "tick" in record.metadata:
            assembler.add_step(record)
        else:
            assembler.add_reward(record)
    return assembler


def taken(assembler: EpisodeAssembler, late: bool = False) -> tuple[Episode, int]:
    popped = assembler.pop(late)
    assert popped is not None, "expected a whole episode"
    return popped[1:]


def ticks(episode: Episode) -> list[float]:
    return [float(features[0]) for features in episode.features]


def test_a_terminated_episode_has_no_final_state():
    episode, lost = taken(feed(make_records(truncated=False)))
    assert ticks(episode) == [0, 1, 2, 3]
    assert episode.rewards == [1, 10, 100, 1000]
    assert episode.log_probs == [0, -1, -2, -3]
    assert episode.values == [0, 0.5, 1, 1.5]
    assert (episode.steps, episode.weights_version, lost) == (4, 7, 0)
    assert episode.final_features is None
    assert episode.success


def test_a_truncated_episode_waits_for_the_state_after_its_last_step():
    *records, final, end = make_records()
    assembler = feed([*records, end])
    assert assembler.pop() is None
    assert assembler.waiting == end
    episode, lost = taken(feed([final], assembler))
    assert episode.final_features.tolist() == [4]
    assert (episode.steps, lost) == (4, 0)


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_arrival_gives_the_same_episode(seed):
    # The end of the next episode comes after that of this one: they are of one topic.
    first, second = make_records(1), make_records(2, steps=3)
    shuffled = first[:-1] + second[:-1]
    random.Random(seed).shuffle(shuffled)
    cut = random.Random(seed).randrange(len(shuffled))
    assembler = feed([*shuffled[:cut], first[-1], second[-1], *shuffled[cut:]])
    for records in (first, second):
        expected, _ = taken(feed(records))
        found, lost = taken(assembler)
        assert lost == 0
        assert found.rewards == expected.rewards
        np.testing.assert_array_equal(found.features, expected.features)
        np.testing.assert_array_equal(found.final_features, expected.final_features)


def test_a_record_that_comes_twice_counts_once():
    records = make_records(truncated=False)
    episode, lost = taken(feed([*records[:-1], *records]))
    assert episode.rewards == [1, 10, 100, 1000]
    assert (episode.steps, lost) == (4, 0)


def test_records_past_the_end_are_left_out():
    """In lockstep a step or two are under way when the episode ends."""
    past = [make_step(1, 4), make_reward(1, 4), make_step(1, 5)]
    episode, lost = taken(feed([*past, *make_records(truncated=False)]))
    assert episode.rewards == [1, 10, 100, 1000]
    assert (episode.steps, lost) == (4, 0)


@pytest.mark.parametrize("truncated", [False, True])
def test_a_missing_reward_cuts_the_episode_and_bootstraps_from_that_state(truncated):
    records = [r for r in make_records(truncated=truncated) if not is_reward(r, 2)]
    assembler = feed(records)
    assert assembler.pop() is None
    episode, lost = taken(assembler, late=True)
    assert ticks(episode) == [0, 1]
    assert episode.rewards == [1, 10]
    assert episode.final_features.tolist() == [2]
    assert lost == 2


def test_a_missing_step_is_not_bootstrapped_from_the_state_after_the_gap():
    records = [r for r in make_records() if not is_step(r, 2)]
    episode, lost = taken(feed(records), late=True)
    # The state after tick 1 is unknown, so tick 1 is the last state that can be bootstrapped.
    assert episode.final_features.tolist() == [1]
    assert ticks(episode) == [0]
    assert lost == 3


def test_a_missing_final_state_turns_the_last_step_into_it():
    records = [r for r in make_records() if not is_step(r, 4)]
    episode, lost = taken(feed(records), late=True)
    assert ticks(episode) == [0, 1, 2]
    assert episode.final_features.tolist() == [3]
    assert lost == 1


def test_a_missing_first_step_leaves_an_empty_episode():
    records = [r for r in make_records() if not is_step(r, 0)]
    episode, lost = taken(feed(records), late=True)
    assert (episode.steps, lost, ticks(episode)) == (0, 4, [])


def test_an_evaluation_episode_is_dropped_whole():
    evaluation = [*make_records(1)[:-1], make_end(1, 4, truncated=True, wanted=False)]
    assembler = feed(evaluation)
    assert assembler.pop() is None
    assert assembler.waiting is None
    episode, _ = taken(feed(make_records(2, steps=3, truncated=False), assembler))
    assert episode.steps == 3


def test_an_incomplete_episode_holds_up_the_next_until_it_is_late():
    incomplete = [r for r in make_records(1, truncated=False) if not is_reward(r, 3)]
    assembler = feed(incomplete + make_records(2, truncated=False))
    assert assembler.pop() is None
    first, second = assembler.pop(late=True), assembler.pop()
    assert [first[0].episode, second[0].episode] == [1, 2]
    assert [first[2], second[2]] == [1, 0]


def test_the_rewards_of_held_steps_go_to_their_decision():
    episode, _ = taken(feed(make_records(steps=5, truncated=False, hold=2)))
    assert ticks(episode) == [0, 2, 4]
    assert episode.rewards == [11, 1100, 10000]
    assert episode.steps == 5
    assert episode.episode_return == 11111


def test_an_episode_cannot_begin_with_a_held_step():
    with pytest.raises(ValueError, match="expected an episode to begin with a decision"):
        Episode().add_step(1.0, False, None, None, 0.0, 0.0)


def test_nothing_is_kept_of_episodes_that_are_over():
    assembler = EpisodeAssembler()
    for episode in range(1, 20):
        wanted = episode % 3 > 0
        records = [*make_records(episode)[:-1], make_end(episode, 4, True, wanted=wanted)]
        feed(records, assembler)
        assembler.pop()
        # Late ones, of an episode that is over already.
        feed([make_step(episode, 2), make_step(episode, 5), make_reward(episode, 1)], assembler)
    assert assembler.waiting is None
    assert not assembler._steps
    assert not assembler._rewards


def test_a_step_waits_for_the_command_that_the_robot_executed():
    assembler = feed(make_records(), EpisodeAssembler(with_executed=True))
    for tick in (0, 1, 3):
        assembler.add_executed(stamp_of(1, tick), np.array([tick + 0.5]))
    assert assembler.pop() is None
    assembler.add_executed(stamp_of(1, 2), np.array([2.5]))
    episode, lost = taken(assembler)
    assert lost == 0
    assert [float(command[0]) for command in episode.commands] == [0, 1, 2, 3]
    assert [float(command[0]) for command in episode.executed] == [0.5, 1.5, 2.5, 3.5]
    assert not assembler._executed


def test_an_episode_is_cut_where_an_executed_command_stays_missing():
    assembler = feed(make_records(), EpisodeAssembler(with_executed=True))
    for tick in (0, 1, 3):
        assembler.add_executed(stamp_of(1, tick), np.array([0.0]))
    episode, lost = taken(assembler, late=True)
    assert ticks(episode) == [0, 1]
    assert lost == 2
    assert episode.final_features[0] == 2
