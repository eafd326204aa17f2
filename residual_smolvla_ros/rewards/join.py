"""Join what the terms need to know of each step, which comes on several topics in any order."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from residual_smolvla_ros.records import Record
from residual_smolvla_ros.rewards.transition import Transition

# How late a record may come, in s; what is missing then was lost.
LATE_S = 1.0
# States and executed commands also come between episodes.
KEPT = 256


@dataclass(frozen=True)
class _Step:
    """A step whose following state is known by its stamp."""

    stamp: int
    next_stamp: int
    tick: int
    known_at: float


class _Recent(dict):
    """The newest KEPT entries."""

    def __setitem__(self, key, value) -> None:
        super().__setitem__(key, value)
        if len(self) > KEPT:
            del self[next(iter(self))]


class TransitionJoin:
    """Collect records and messages by their stamps, and hand out transitions in their order.

    With `lockstep` a simulator's records tell which state follows which, and all of them are
    steps; else the policy's steps do. `needs` are those of the terms, and "environment" where a
    simulator judges. A step that lacks one of them for LATE_S is handed out without it.
    """

    def __init__(
        self,
        needs: frozenset[str],
        lockstep: bool,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._needs = needs
        self._clock = clock
        self._lockstep = lockstep
        self._waiting: deque[_Step] = deque()
        self._tick = 0
        self._newest: Record | None = None  # the step whose following one is awaited
        self._steps, self._states, self._executed = _Recent(), _Recent(), _Recent()
        self._environments = _Recent()
        self._seen: set[int] = set()  # states of the simulator since its last reset
        self.incomplete = 0

    def add_environment(self, record: Record) -> None:
        """Take an environment/state record; a second one of the same stamp is ignored."""
        stamp, previous = record.metadata["stamp"], record.metadata["previous_stamp"]
        if not previous:
            self._seen.clear()
        elif stamp in self._seen:
            return
        self._seen.add(stamp)
        self._environments[stamp] = record
        if not previous:  # the first of an episode ends no step
            self._tick = 0
        elif self._lockstep:
            self._waiting.append(_Step(previous, stamp, self._tick, self._clock()))
            self._tick += 1

    def add_step(self, record: Record, command: np.ndarray) -> None:
        """Take a policy/step record and its command (joints,) in rad; a second one is ignored."""
        if record.metadata["stamp"] in self._steps:
            return
        self._steps[record.metadata["stamp"]] = (command, record["residual"])
        before, self._newest = self._newest, record
        if self._lockstep or before is None:
            return
        if before.metadata["episode"] == record.metadata["episode"]:
            stamps = before.metadata["stamp"], record.metadata["stamp"]
            self._waiting.append(_Step(*stamps, before.metadata["tick"], self._clock()))

    def add_state(self, stamp: int, position, velocity, effort) -> None:
        """Take a state: (joints,) in rad, rad/s and shares of full drive."""
        self._states[stamp] = (position, velocity, effort)

    def add_executed(self, stamp: int, position) -> None:
        """Take what the robot executed in answer to a state, (joints,) in rad."""
        self._executed[stamp] = position

    def pop(self, **extra) -> Transition | None:
        """Return the next transition, if it is time; `extra` fields are set in it."""
        if not self._waiting:
            return None
        step = self._waiting[0]
        if not self._is_whole(step):
            if self._clock() - step.known_at < LATE_S:
                return None
            self.incomplete += 1
        return self._make(self._waiting.popleft(), extra)

    def _is_whole(self, step: _Step) -> bool:
        found = {
            "step": step.stamp in self._steps,
            "joints": step.next_stamp in self._states,
            "executed": step.stamp in self._executed,
            "environment": step.next_stamp in self._environments,
        }
        return all(found[need] for need in self._needs)

    def _environment(self, step: _Step) -> Record | None:
        """Return the record of the following state, with the rewards since the step's own.

        In real time the policy may leave out states.
        """
        record = self._environments.get(step.next_stamp)
        if record is None or self._lockstep:
            return record
        between = [r for s, r in self._environments.items() if step.stamp < s <= step.next_stamp]
        reward = np.float32(sum(float(r["reward"]) for r in between))
        success = any(r.metadata["success"] for r in between)
        return Record(record.tensors | {"reward": reward}, record.metadata | {"success": success})

    def _make(self, step: _Step, extra: dict) -> Transition:
        command, residual = self._steps.get(step.stamp, (None, None))
        position, velocity, effort = self._states.get(step.next_stamp, (None, None, None))
        return Transition(
            stamp=step.stamp,
            next_stamp=step.next_stamp,
            tick=step.tick,
            position=position,
            velocity=velocity,
            effort=effort,
            command=command,
            executed=self._executed.get(step.stamp),
            residual=residual,
            environment=self._environment(step),
            **extra,
        )
