"""What terms need of a step comes in any order, or not at all."""

import numpy as np
import pytest
from test_rollout_assembly import make_step, stamp_of

from residual_smolvla_ros.records import ENVIRONMENT_STATE, pack, unpack
from residual_smolvla_ros.rewards.join import LATE_S, TransitionJoin

NEEDS = frozenset({"step", "joints", "executed"})


class Arrivals:
    """Steps, states and executed commands of an episode, whose values are the ticks."""

    def __init__(self):
        self.now = 0.0
        self.join = TransitionJoin(NEEDS, lockstep=False, clock=lambda: self.now)

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


def test_in_real_time_a_step_earns_what_the_simulator_gave_since_the_step_before():
    """The policy leaves out states while it plans, and the simulator goes on between episodes."""
    arrivals = Arrivals()
    arrivals.join = TransitionJoin(frozenset({"environment"}), lockstep=False)
    for tick in range(5):
        tensors = {"privileged": [0.0], "target": [0.0] * 3, "reward": 2.0**tick}
        stamp = stamp_of(1, tick)
        blob = pack(ENVIRONMENT_STATE, tensors, stamp=stamp, previous_stamp=stamp - 10,
                    success=tick == 2)  # fmt: skip
        arrivals.join.add_environment(unpack(ENVIRONMENT_STATE, blob))
    assert arrivals.join.pop() is None
    for tick in (1, 3, 4):
        arrivals.step(tick)
    first, second = arrivals.join.pop(), arrivals.join.pop()
    assert (first.environment["reward"], first.environment.metadata["success"]) == (4 + 8, True)
    assert (second.environment["reward"], second.environment.metadata["success"]) == (16, False)
