"""Episodes of `finetune-local`: observe, act, reward, record, and learn after each."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from lerobot.utils.robot_utils import precise_sleep

from residual_smolvla_ros.api.policy import ResidualSmolVLAPolicy
from residual_smolvla_ros.api.reward import SimpleRewardFunction
from residual_smolvla_ros.api.trainer import ResidualRLTrainer
from residual_smolvla_ros.learning.schedule import TRAIN, TRAINING_SEED, WARMUP, EpisodePlan
from residual_smolvla_ros.local.keys import Keys
from residual_smolvla_ros.local.recording import Recording
from residual_smolvla_ros.records import DISCARD, FAILURE, SUCCESS


@dataclass(frozen=True)
class Played:
    """How an episode went. Its `label` is empty where it was stopped."""

    plan: EpisodePlan
    steps: int
    episode_return: float
    label: str
    reason: str
    metrics: dict[str, float]


class Loop:
    """Play episodes of `steps` control steps at most with a connected robot.

    Scenes, randomness and weights are those of the ROS graph's training episodes. `say` is told
    what a person should know.
    """

    def __init__(
        self,
        robot,
        policy: ResidualSmolVLAPolicy,
        trainer: ResidualRLTrainer,
        reward: SimpleRewardFunction,
        recording: Recording,
        keys: Keys,
        steps: int,
        fps: int,
        task: str,
        unlabelled: str,
        say: Callable[[str], None] = print,
    ):
        self._robot, self._policy, self._trainer = robot, policy, trainer
        self._reward, self._recording, self._keys = reward, recording, keys
        self._steps, self._fps, self._task = steps, fps, task
        self._unlabelled, self._say = unlabelled, say

    def play(self, number: int) -> Played:
        """Play an episode, keep it and learn from it; one that is stopped leaves no trace."""
        plan = self._plan(number)
        self._keys.clear()
        self._robot.reset(plan.seed)
        self._policy.reset(plan.seed)
        self._trainer.reset_rollout_storage()
        self._reward.reset()
        try:
            played, after = self._play(plan)
        except BaseException:
            self._recording.drop()
            raise
        finally:
            self._robot.hold()
        if played.label in ("", DISCARD):
            self._recording.drop()
            self._trainer.reset_rollout_storage()
            return played
        self._recording.keep()
        cut = after if played.reason == "truncated" else None
        metrics = self._trainer.update_policy(cut, success=played.label == SUCCESS)
        return Played(**vars(played) | {"metrics": metrics})

    def _plan(self, number: int) -> EpisodePlan:
        learner = self._trainer.learner
        index, warmup = learner.counters.episodes + learner.collected, learner.warms_up
        return EpisodePlan(
            number,
            WARMUP if warmup else TRAIN,
            index,
            TRAINING_SEED * (self._policy.seed + 1) + index,
            self._steps,
            weights_version=learner.counters.version,
            use_residual=not warmup,
            explore=not warmup,
        )

    def _play(self, plan: EpisodePlan) -> tuple[Played, dict]:
        keys, total, reason = self._keys, 0.0, ""
        observation = self._robot.get_observation()
        for step in range(1, plan.max_steps + 1):
            began = time.perf_counter()
            action = self._policy.predict_action(observation, self._task)
            self._robot.send_action(action)
            self._recording.add(observation, action)
            if self._robot.in_real_time:
                precise_sleep(max(0.0, 1.0 / self._fps - (time.perf_counter() - began)))
            observation = self._robot.get_observation()
            told = observation.get("environment")
            done = told is not None and told.metadata["success"]
            if done:
                reason = "terminated"
            elif keys.label or keys.ends or keys.stops:
                reason = "stopped" if keys.stops else "labelled"
            elif step == plan.max_steps:
                reason = "truncated"
            label = self._label(done, told is not None) if reason else ""
            if label == SUCCESS and reason == "truncated":
                reason = "labelled"  # done is done, also at the time limit
            last = self._policy.last_step
            earned = self._reward.compute_reward(
                observation, action, success=label == SUCCESS, step=last, label=label
            )
            self._trainer.record_step(earned)
            total += earned
            if reason:
                break
        return Played(plan, step, total, label, reason, {}), observation

    def _label(self, done: bool, is_judged: bool) -> str:
        """Return the label of an episode that has ended; a person is waited for where asked."""
        keys = self._keys
        if keys.stops:
            return ""
        if done or is_judged:
            return keys.label or (SUCCESS if done else FAILURE)
        if not keys.label and self._unlabelled == "wait":
            self._robot.hold()
            self._ask()
            while not keys.label and not keys.stops:
                keys.heard.wait(0.2)
        if keys.stops:
            return ""
        return keys.label or self._unlabelled

    def _ask(self) -> None:
        self._say("label the episode: s, f or d")
