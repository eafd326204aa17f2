"""One simulated arm that plays episodes: the control step of the ROS nodes without the topics."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from residual_smolvla_ros.learning.rollout import Episode
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.policy.residual_policy import PolicyStep, ResidualPolicy
from residual_smolvla_ros.records import FAILURE, SUCCESS, Record
from residual_smolvla_ros.rewards.composition import Reward
from residual_smolvla_ros.rewards.transition import Transition
from residual_smolvla_ros.robots.simulation import RATE_HZ, SimulatedSO101, SimulatorState
from residual_smolvla_ros.robots.units import lerobot_to_rad, rad_to_lerobot

PERIOD_NS = round(1e9 / RATE_HZ)
SPECTATOR_EVERY = 3


@dataclass(frozen=True)
class Played:
    """How an episode went; `episode` is what a learner takes, cut where a reward was missing."""

    plan: EpisodePlan
    episode: Episode
    steps: int
    success: bool
    episode_return: float
    terms: dict[str, float]
    frames: list[np.ndarray]  # what a spectator saw, where the plan asks for it

    @property
    def reason(self) -> str:
        """Why it ended, as in `episodes.jsonl`."""
        return "terminated" if self.success else "truncated"

    @property
    def label(self) -> str:
        """What it counts as."""
        return SUCCESS if self.success else FAILURE


class Arm:
    """Play one episode at a time: `begin`, then `step` until `done`; `result` tells how it went.

    The state that `step` answers must have been planned for: see `needs_plan` and `needs_tokens`
    of `policy`, and `images`. `success` says whether the episode has come to it.
    """

    def __init__(self, sim: SimulatedSO101, policy: ResidualPolicy, reward: Reward):
        self._sim = sim
        self.policy = policy
        self._reward = reward
        self.done = True

    def begin(self, plan: EpisodePlan) -> None:
        """Set the scene of an episode."""
        self._sim.reset(plan.seed)
        self.policy.begin_episode(plan.seed, plan.max_steps, plan.use_residual, plan.explore)
        self.done = False
        self.success = False
        self._plan = plan
        self._episode = Episode(weights_version=self.policy.version)
        self._cut = False
        self._steps = 0
        self._return = 0.0
        self._terms = dict.fromkeys(self._reward.names, 0.0)
        self._frames: list[np.ndarray] = []
        self._look()

    def images(self, cameras: Iterable[str]) -> dict[str, np.ndarray]:
        """Return what cameras see, (H, W, 3) uint8 by name."""
        return {name: self._sim.render(name) for name in cameras}

    def spectate(self) -> np.ndarray:
        """Return what a spectator sees, (H, W, 3) uint8."""
        return self._sim.render("spectator")

    @property
    def state(self) -> np.ndarray:
        """The joint positions (joints,) in LeRobot's units."""
        return self._state

    @property
    def features(self) -> np.ndarray:
        """The features (feature_size,) of the present state."""
        return self.policy.features(self._state, self._extra)

    def step(self, residual: np.ndarray | None = None) -> float:
        """Play one control step and return its reward; `residual` stands in for the policy's."""
        step = self.policy.step(self._state, self._extra, residual)
        tick, position = self._steps, lerobot_to_rad(step.command)
        self._sim.step(position)
        self._steps += 1
        environment = self._look()
        shares = self._reward(
            Transition(
                stamp=tick * PERIOD_NS,
                next_stamp=self._steps * PERIOD_NS,
                tick=tick,
                success=environment.success,
                position=self._position,
                velocity=self._velocity,
                effort=np.zeros_like(position),
                command=position,
                residual=step.residual,
                environment=self._record(environment),
            )
        )
        self._learn(step, None if shares.missing else shares.total)
        self._return += shares.total
        for name, share in zip(shares.names, shares.values, strict=True):
            self._terms[name] += float(share)
        self.success = environment.success
        self.done = environment.success or self._steps >= self._plan.max_steps
        return shares.total

    def _look(self) -> SimulatorState:
        if self._plan.spectator and self._steps % SPECTATOR_EVERY == 0:
            self._frames.append(self.spectate())
        state = self._sim.state()
        self._position = self._sim.joint_positions()
        self._velocity = self._sim.joint_velocities()
        self._state = rad_to_lerobot(self._position)
        self._extra = {
            "privileged": state.privileged,
            "target": state.target.astype(np.float32),
            "velocity": self._velocity,
        }
        return state

    def _record(self, state: SimulatorState) -> Record:
        tensors = self._extra | {"reward": np.float32(state.reward)}
        return Record(tensors, {"success": state.success})

    def _learn(self, step: PolicyStep, reward: float | None) -> None:
        if self._cut:
            return
        if reward is None:
            # As in the graph: without all of its terms a reward says nothing.
            self._cut, self._episode.final_features = True, step.features
            return
        self._episode.add_step(
            reward, step.decision, step.features, step.residual, step.log_prob, step.value
        )

    def result(self) -> Played:
        """Return how the episode went."""
        if not self.success and not self._cut:
            self._episode.final_features = self.policy.features(self._state, self._extra)
            self._episode.timed_out = True
        self._episode.success = self.success
        return Played(
            plan=self._plan,
            episode=self._episode,
            steps=self._steps,
            success=self.success,
            episode_return=self._return,
            terms={name: round(share, 6) for name, share in self._terms.items()},
            frames=self._frames,
        )
