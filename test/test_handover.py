"""Handover between policy and person: no jump at a switch, whatever comes in which order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.policy.handover import MAX_TICK_S, PERSON, POLICY, Handover

HANDOVER_S, TICK_S = 1.0, 1 / 30
STEEPEST = 1.5  # of a smoothstep over a time of 1


def one(value: float) -> np.ndarray:
    return np.array([value])


def taken(handover_s: float = HANDOVER_S) -> Handover:
    """A person has taken over at 0 s: the arm at 0.5 rad, their target at 0.2 rad."""
    handover = Handover(handover_s)
    handover.take(0.0, one(0.5), one(0.2))
    return handover


def play(handover: Handover, start: float, seconds: float, value: float) -> list[float]:
    """Return the commands to a source that stays at a value."""
    commands = []
    for now in np.arange(start, start + seconds, TICK_S):
        if handover.driver == PERSON:
            commands.append(handover.person(now, one(value))[0])
        else:
            commands.append(handover.policy(now, one(value))[0][0])
    return commands


def test_without_a_takeover_the_policys_command_is_untouched():
    command = np.float32([0.1, 0.2])
    sent, blended = Handover().policy(3.0, command)
    assert sent is command
    assert not blended


def test_a_person_drives_from_where_the_arm_is_and_ends_at_their_target():
    handover = taken()
    commands = play(handover, 0.0, 1.1, 0.2)
    assert commands[0] == 0.5
    assert commands[15] == pytest.approx(0.35)
    assert commands[-1] == 0.2
    assert (np.diff(commands) <= 0.0).all()


def test_the_arm_follows_a_hand_at_once_though_the_leader_stands_elsewhere():
    handover = taken()
    assert handover.person(0.0, one(0.3))[0] == pytest.approx(0.6)


def test_given_back_the_policy_drives_from_the_persons_last_command_and_alone_in_the_end():
    handover = taken()
    last = play(handover, 0.0, 1.5, 0.2)[-1]
    handover.give_back(2.0)
    assert handover.driver == POLICY
    first, blended = handover.policy(2.0, one(0.8))
    assert blended
    assert first[0] == last
    commands = play(handover, 2.0, 1.1, 0.8)
    assert commands[15] == pytest.approx((last + 0.8) / 2)
    assert commands[-1] == 0.8
    assert handover.policy(3.2, one(0.8)) == (one(0.8), False)


def test_a_policy_that_plans_anew_while_it_gets_the_arm_back_does_not_overshoot():
    handover = taken()
    play(handover, 0.0, 1.5, 0.2)
    handover.give_back(2.0)
    play(handover, 2.0, 0.4, 0.8)
    sent, _ = handover.policy(2.4, one(0.25))  # it has seen where the arm is
    assert 0.2 <= sent[0] <= 0.25


def test_a_pause_of_the_policy_does_not_use_the_blend_up():
    """A plan of SmolVLA can take longer than the handover."""
    handover = taken()
    play(handover, 0.0, 1.5, 0.2)
    handover.give_back(2.0)
    sent, blended = handover.policy(5.0, one(0.8))
    assert blended
    assert sent[0] < 0.25


def test_a_second_give_back_does_not_blend_again():
    handover = taken()
    handover.give_back(0.1)
    before = play(handover, 0.1, 0.5, 0.8)[-1]
    handover.give_back(0.6)
    assert handover.policy(0.6, one(0.8))[0][0] == pytest.approx(before, abs=0.02)


def test_an_episode_that_ends_leaves_nothing_to_blend():
    handover = taken()
    handover.end()
    assert handover.driver == POLICY
    assert handover.policy(0.1, one(0.8)) == (one(0.8), False)


def test_without_a_handover_time_both_drive_alone_at_once():
    handover = taken(handover_s=0.0)
    assert handover.person(0.0, one(0.2))[0] == 0.2
    handover.give_back(0.1)
    assert handover.policy(0.1, one(0.8)) == (one(0.8), False)


@pytest.mark.parametrize("handover_s", [-0.1, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(handover_s):
    with pytest.raises(ConfigError, match="handover_s: expected a time in s"):
        Handover(handover_s)


EVENTS = ["take", "give back", "", "", "", ""]
angles = st.none() | st.floats(-2.0, 2.0)  # None: as before, so that a jump of the blend shows
ticks = st.lists(
    # Event, s since the tick before, the person's target, the policy's command.
    st.tuples(st.sampled_from(EVENTS), st.floats(0.0, 0.5), angles, angles),
    min_size=1,
    max_size=60,
)


@given(ticks=ticks, handover_s=st.floats(0.05, 2.0))
def test_a_command_changes_by_its_source_and_the_decay_alone(ticks, handover_s):
    handover, now = Handover(handover_s), 0.0
    target, command, sent = 0.0, 0.0, 0.0
    offset, start, blended = 0.0, 0.0, False  # the person's; where the policy got the arm back
    for event, dt, new_target, new_command in ticks:
        if event == "take":
            handover.take(now, one(sent), one(target))
            offset = sent - target
        elif event == "give back" and handover.driver == PERSON:
            handover.give_back(now)
            start, blended = sent, True
        now += dt
        new_target = target if new_target is None else new_target
        new_command = command if new_command is None else new_command
        decay = STEEPEST * min(dt, MAX_TICK_S) / handover_s
        if handover.driver == PERSON:
            new_sent = handover.person(now, one(new_target))[0]
            bound = abs(new_target - target) + decay * abs(offset)
        else:
            bound = abs(new_command - command) + decay * blended * abs(start - command)
            (new_sent,), blended = handover.policy(now, one(new_command))
        assert abs(new_sent - sent) <= bound + 1e-9
        if blended and handover.driver == POLICY:
            assert min(start, new_command) - 1e-9 <= new_sent <= max(start, new_command) + 1e-9
        target, command, sent = new_target, new_command, new_sent
