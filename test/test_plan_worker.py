"""Plans beside the control loop: begun in time, taken when there, and told by what they are of."""

import threading
import time

import numpy as np
import pytest

from residual_smolvla_ros.nodes.parts.plan_worker import SPARE_STEPS, PlanWorker
from residual_smolvla_ros.planning import RTC, Planning
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.base import load_base
from residual_smolvla_ros.policy.residual_policy import ResidualPolicy

PERIOD_NS = 33_333_333
STATE = np.array([5.0, -60.0, 55.0, 60.0, -10.0, 20.0])


class Loop:
    """The control loop of the node `policy`, a state a tick, without topics."""

    def __init__(self, base, config, planning: Planning, lockstep: bool):
        delay = planning.delay_steps(30.0) if lockstep else 0
        self.policy = ResidualPolicy(base, "Lift the red cube", None, planning, delay)
        self.policy.load_weights(config, ResidualActorCritic(config).state_dict(), version=1)
        self.policy.begin_episode(1, max_steps=500)
        self.worker = PlanWorker(self.policy, lockstep, PERIOD_NS, planning)
        self.images = {name: np.zeros((96, 96, 3), np.uint8) for name in base.cameras}
        self.tick, self.told = 0, []

    def start(self, images=None) -> None:
        stamps = dict.fromkeys(self.images, self.stamp - 7)
        self.worker.start(images or (lambda: self.images), stamps, STATE, self.stamp)

    @property
    def stamp(self) -> int:
        return 1_000_000_000 + self.tick * PERIOD_NS

    def step(self) -> dict:
        step = self.policy.step(STATE)
        self.told.append(self.worker.describe(step.plan, self.stamp))
        self.tick += 1
        return self.told[-1]

    def wait(self) -> None:
        end = time.monotonic() + 30
        while not self.worker.idle:
            assert time.monotonic() < end, "no plan in time"
            self.worker.collect()
            time.sleep(0.001)


def test_in_lockstep_a_plan_takes_over_as_many_steps_later_as_it_is_said_to_take(base, config):
    loop = Loop(base, config, Planning(delay_ms=100.0), lockstep=True)
    asked = []
    for tick in range(base.chunk_size + 5):
        if loop.policy.plan_due:
            asked.append(tick)
            loop.start()
        loop.step()
    size = base.chunk_size
    assert asked == [0, size - 3]
    fresh = {tick: told["plan"] for tick, told in enumerate(loop.told) if told["plan"]}
    second = {"stamp": 1_000_000_000 + (size - 3) * PERIOD_NS, "tick": size - 3, "lead": 3}
    assert fresh.keys() == {0, size}
    assert fresh[size] == second | {"left": 3}
    assert loop.told[size]["plan_images"] == dict.fromkeys(base.cameras, fresh[size]["stamp"] - 7)
    assert loop.told[size]["plan_age_ms"] == 100
    assert loop.told[size - 1]["plan_age_ms"] == round((size - 1) * PERIOD_NS / 1e6)


def test_in_real_time_steps_go_on_while_a_plan_is_made(base, config):
    """The step that waited for a plan stood still for 370 ms."""
    loop = Loop(base, config, Planning(), lockstep=False)
    loop.start()
    loop.wait()
    release = threading.Event()
    loop.step()
    loop.start(lambda: release.wait(30) and loop.images)
    for _ in range(4):
        loop.worker.collect()
        assert not loop.worker.idle
        assert loop.step()["plan"] == {}
    release.set()
    loop.wait()
    told = loop.step()
    assert (told["plan"]["tick"], told["plan_age_ms"]) == (1, 133)
    assert loop.policy.player.index(loop.tick) == loop.tick - 1


def test_a_plan_is_begun_as_early_as_the_slowest_of_late_took(base, config):
    loop = Loop(base, config, Planning(delay_ms=150.0), lockstep=False)
    loop.start()
    loop.wait()
    assert float(loop.worker.status()["plan_ms"]) >= 150.0
    lead = loop.policy.player.lead
    assert lead >= 5 + SPARE_STEPS
    loop.tick = base.chunk_size - lead - 1
    for _ in range(loop.tick):
        loop.policy.step(STATE)
    assert not loop.policy.plan_due
    loop.policy.step(STATE)
    assert loop.policy.plan_due


def test_a_broken_image_costs_a_plan_and_the_next_one_is_made(base, config):
    loop = Loop(base, config, Planning(), lockstep=False)

    def broken():
        raise ValueError("front/image_raw: cut off")

    loop.start(broken)
    with pytest.raises(ValueError, match="cut off"):
        loop.wait()
    assert loop.worker.idle
    assert loop.policy.plan_due
    loop.start()
    loop.wait()
    assert not loop.policy.needs_plan


def test_a_plan_for_the_last_episode_is_not_taken_into_the_next(base, config):
    loop = Loop(base, config, Planning(), lockstep=False)
    release = threading.Event()
    loop.start(lambda: release.wait(30) and loop.images)
    loop.policy.begin_episode(2, max_steps=500)
    loop.worker.begin()
    release.set()
    loop.worker._thread.submit(int).result()  # after what was under way
    loop.worker.collect()
    assert loop.policy.needs_plan


def test_a_guided_plan_goes_on_from_what_is_left_of_the_last(base, config):
    """Real-time chunking: the actions before the switch, and those behind it, are the old ones."""
    planning = Planning(delay_ms=200.0, overlap_steps=6, switch=RTC)
    guided = Loop(load_base(base.path, planning=planning), config, planning, lockstep=True)
    alone = Loop(base, config, Planning(delay_ms=200.0, overlap_steps=6), lockstep=True)
    for loop in (guided, alone):
        while loop.policy.player.taken != 2:
            if loop.policy.plan_due:
                before = loop.policy.player.chunk
                loop.start()
            loop.step()
        loop.gap = np.abs(loop.policy.player.chunk[6:9] - before[-6:-3]).mean()
    assert guided.gap < 0.5 * alone.gap
