"""What terms need of a step comes in any order, or not at all."""

import numpy as np
import pytest
from test_rollout_assembly import make_step, stamp_of

from residual_smolvla_ros.rewards.join import LATE_S, TransitionJoin

NEEDS = frozenset({"step", "joints", "executed"})


class Arrivals:
    """Steps, states and executed commands of an episode, whose values are the ticks."""

    def __init__(self):
        self.now = 0.0
        self.join = TransitionJoin(NEEDS, environment=False, clock=lambda: self.now)

    def step(self, tick: int) -> None:
        self.join.add_step(make_step(1, tick), np.array([float(tick)]))

    def state(self, tick: int) -> None:
        self.join.add_state(stamp_of(1, tick), np.array([float(tick)]), None, None)

    def executed(self, tick: int) -> None:
        self.join.add_executed(stamp_of(1, tick), np.array([float(tick)]))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_step_has_its_own_command_and_the_state_that_followed(order):
    arrivals = Arrivals()
    sources = (arrivals.step, arrivals.state, arrivals.executed)
    for source in order:
        for tick in range(3):
            sources[source](tick)
    for tick in range(2):
        found = arrivals.join.pop()
        assert (found.tick, found.stamp, found.next_stamp) == (
            tick, stamp_of(1, tick), stamp_of(1, tick + 1),
        )  # fmt: skip
        assert (found.command, found.executed, found.position) == (tick, tick, tick + 1)
    assert arrivals.join.pop() is None


def test_a_state_that_never_comes_holds_no_step_up_for_good():
    """Else the episode, which counts rewards, would never end."""
    arrivals = Arrivals()
    for tick in range(3):
        arrivals.step(tick)
        arrivals.executed(tick)
    arrivals.state(2)
    assert arrivals.join.pop() is None
    arrivals.now = LATE_S
    assert arrivals.join.pop().position is None
    assert arrivals.join.pop().position == 2
    assert arrivals.join.incomplete == 1
