"""Chunks follow each other in line with time: nothing is played late or too soon."""

import numpy as np
import pytest

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.planning import Planning
from residual_smolvla_ros.policy.chunk_player import ChunkPlayer

SIZE = 10


def chunk(number: int) -> np.ndarray:
    """A chunk whose actions tell where they come from: 100 * number + place."""
    return np.float32(100 * number + np.arange(SIZE))[:, None]


def play(player: ChunkPlayer, steps: int, delay: int, lead: int | None = None) -> list[float]:
    """Play, with each plan taking `delay` steps, begun `lead` steps before it is needed."""
    player.lead = delay if lead is None else lead
    played, ready = [], None
    for tick in range(steps):
        if ready is not None and tick >= ready[0]:
            player.take(ready[1], ready[2], tick)
            player.reach(tick)
            ready = None
        if player.is_due(tick):
            request = player.ask(tick)
            made = chunk(player.taken)
            if player.is_out(tick):
                player.take(made, request, tick)
                player.reach(tick)
            else:
                ready = (tick + delay, made, request)
        played.append(player.action(tick).item())
    return played


def test_without_delay_chunks_are_played_one_after_the_other():
    assert play(ChunkPlayer(), 25, delay=0) == [*range(10), *range(100, 110), *range(200, 205)]


def test_a_plan_that_took_steps_skips_the_actions_whose_time_has_passed():
    played = play(ChunkPlayer(), 20, delay=3)
    # Asked for at 7, where its first action would have been due, and there at 10.
    assert played == [*range(10), *range(103, 110), *range(203, 206)]


def test_a_plan_that_is_there_early_takes_over_at_once():
    played = play(ChunkPlayer(), 12, delay=2, lead=5)
    assert played == [*range(7), *range(102, 107)]


def test_in_lockstep_a_plan_that_is_made_early_is_not_seen_before_its_time():
    player = ChunkPlayer()
    player.take(chunk(0), player.ask(0), 0)
    player.reach(0)
    player.take(chunk(1), player.ask(7), tick=10)
    player.reach(9)
    assert [player.action(tick).item() for tick in (9, 12)] == [9.0, 9.0]
    assert not player.is_due(9), "one plan at a time"
    player.reach(10)
    assert player.action(10).item() == 103.0


def test_a_blend_goes_over_from_what_is_left_of_the_old_chunk():
    played = play(ChunkPlayer(overlap_steps=3), 13, delay=1)
    # Asked for at 6, there at 7: from then on 7, 8, 9 of the old beside 101, 102, 103.
    expected = [*range(7), 7 + 94 / 4, 8 + 94 / 2, 9 + 94 * 3 / 4, 104.0]
    np.testing.assert_allclose(played[:11], expected)


def test_what_was_planned_before_a_takeover_is_not_played_after_it():
    player = ChunkPlayer()
    player.take(chunk(0), player.ask(0), 0)
    player.reach(0)
    stale = player.ask(7)
    player.outdate()
    assert player.is_out(8)
    assert player.is_due(8)
    assert not player.take(chunk(1), stale, 8)
    fresh = player.ask(8)
    assert fresh.left_over is None
    assert player.take(chunk(2), fresh, 8)
    player.reach(8)
    assert player.action(8).item() == 200.0
    assert player.taken == 2, "the noise of the dropped plan is the next one's"


def test_a_request_holds_what_is_left_of_the_present_chunk():
    player = ChunkPlayer(overlap_steps=2)
    player.lead = 3
    player.take(chunk(0), player.ask(0), 0)
    player.reach(0)
    assert next(t for t in range(10) if player.is_due(t)) == 5
    request = player.ask(6)
    assert request.left_over.ravel().tolist() == [6, 7, 8, 9]
    assert request.lead == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"delay_ms": -1.0}, "plan_delay_ms: expected 0 or more, found -1.0"),
        ({"delay_ms": "long"}, "plan_delay_ms: expected 0 or more, found 'long'"),
        ({"overlap_steps": 1.5}, "plan_overlap_steps: expected a whole number.* found 1.5"),
        ({"switch": "jump"}, "plan_switch: expected blend or rtc, found 'jump'"),
    ],
)
def test_what_makes_no_sense_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        Planning(**given)


def test_a_delay_is_counted_in_whole_control_steps():
    assert [Planning(ms).delay_steps(30.0) for ms in (0.0, 1.0, 100.0, 200.0, 370.0)] == [
        0,
        1,
        3,
        6,
        12,
    ]
    assert Planning(370.0, 5).period_steps(50, 30.0) == 33
    with pytest.raises(ConfigError, match="less than the 10 actions of a plan, found 12 and 0"):
        Planning(370.0).period_steps(10, 30.0)
