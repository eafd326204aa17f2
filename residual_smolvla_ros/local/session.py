"""A session of `finetune-local`: everything made from the arguments, then episode after episode."""

import time
from pathlib import Path

from residual_smolvla_ros.api.policy import ResidualSmolVLAPolicy
from residual_smolvla_ros.api.reward import SimpleRewardFunction
from residual_smolvla_ros.api.trainer import ResidualRLTrainer
from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.checkpoint import checkpoints, load_checkpoint
from residual_smolvla_ros.learning.run import LearnerRun
from residual_smolvla_ros.local.arguments import LocalArguments
from residual_smolvla_ros.local.command import default_output
from residual_smolvla_ros.local.keys import HELP, Keys
from residual_smolvla_ros.local.loop import Loop, Played
from residual_smolvla_ros.local.recording import Recording
from residual_smolvla_ros.local.robot import FilteredRobot, make_robot
from residual_smolvla_ros.pipeline import share_directory
from residual_smolvla_ros.records import DISCARD, SUCCESS
from residual_smolvla_ros.reporting.results import append_outcome, last_episode, write_run
from residual_smolvla_ros.rewards.judge import default_terms
from residual_smolvla_ros.training.settings import Section

SHOWN = ("policy_loss", "value_loss", "approx_kl")


class LocalSession:
    """Make all parts; raise ValueError, one line, for what does not fit. `close` it."""

    def __init__(self, arguments: LocalArguments):
        rl, data = arguments.rl, arguments.dataset
        self._arguments = arguments
        self.output = Path(rl.output or default_output()).expanduser()
        if checkpoints(self.output):
            raise ConfigError(
                f"rl.output: expected a new folder, found a run in {self.output}; {self.go_on} "
                "and another --rl.output"
            )
        config = Path(rl.config) if rl.config else share_directory() / "config" / "so101.yaml"
        self._robot = make_robot(arguments.robot, data.fps)
        self._steps = max(1, round(data.episode_time_s * data.fps))
        self._policy = ResidualSmolVLAPolicy(
            arguments.policy.path,
            arguments.policy.device,
            config=config,
            max_steps=self._steps,
            total_steps=self._steps * data.num_episodes,
            seed=rl.seed,
            joint_names=self._robot.joint_names,
        )
        self._policy.base.check_robot(list(self._robot.cameras), list(self._robot.joint_names))
        self._trainer = self._make_trainer()
        section = Section(config, "reward")
        simulated = not isinstance(self._robot, FilteredRobot)
        terms = section("terms", default_terms(environment=simulated))
        self._reward = SimpleRewardFunction(
            terms, tuple(self._robot.cameras), data.fps, self._robot.joint_names
        )
        self._recording = Recording(data, self._robot, arguments.resume)
        settings = {"base_checkpoint": str(self._policy.base.path.resolve()), "seed": rl.seed}
        self._run = LearnerRun(self.output, self._trainer.learner, settings, resume=False)
        write_run(self.output, settings)
        self._started = time.monotonic()

    def _make_trainer(self) -> ResidualRLTrainer:
        path = self._arguments.residual_checkpoint_path
        if path:
            self._policy.load_residual_weights(path)
        trainer = ResidualRLTrainer(
            self._policy, self._arguments.learning_rate, self._arguments.policy.device
        )
        if path:
            checkpoint = load_checkpoint(path, training=True)
            if checkpoint.training:
                trainer.learner.resume(checkpoint)
            self._policy.use_learner(trainer.learner)
            trainer.reset_rollout_storage()
        return trainer

    @property
    def go_on(self) -> str:
        """How to go on, in words."""
        return f"go on by --residual_checkpoint_path={self.output}"

    def play(self) -> bool:
        """Play all episodes; return whether a person has stopped before."""
        arguments, data = self._arguments, self._arguments.dataset
        with Keys() as keys:
            if self._needs_labels and not keys.are_heard:
                raise ConfigError(
                    "rl.unlabelled: expected failure or discard where there is no terminal to "
                    "label episodes from, found wait"
                )
            self._robot.connect()
            loop = Loop(
                self._robot,
                self._policy,
                self._trainer,
                self._reward,
                self._recording,
                keys,
                steps=self._steps,
                fps=data.fps,
                task=data.single_task,
                unlabelled=arguments.rl.unlabelled,
            )
            if keys.are_heard:
                print(HELP)
            kept, number = 0, last_episode(self.output)
            while kept < data.num_episodes and not keys.stops:
                number += 1
                played = loop.play(number)
                if played.label:
                    kept += played.label != DISCARD
                    self._note(played, kept)
                if kept < data.num_episodes and self._robot.in_real_time and not keys.stops:
                    print(f"set the scene: {data.reset_time_s:g} s")
                    self._wait(keys, data.reset_time_s)
            if keys.stops:
                print(f"stopped after {kept} of {data.num_episodes} episodes; {self.go_on}")
            return keys.stops

    @property
    def _needs_labels(self) -> bool:
        return self._robot.in_real_time and self._arguments.rl.unlabelled == "wait"

    @staticmethod
    def _wait(keys: Keys, seconds: float) -> None:
        end = time.monotonic() + seconds
        keys.clear()
        while not (keys.stops or keys.ends) and (left := end - time.monotonic()) > 0:
            keys.heard.wait(left)
            keys.heard.clear()

    def _note(self, played: Played, kept: int) -> None:
        outcome = played.plan.outcome(
            steps=played.steps,
            success=played.label == SUCCESS,
            episode_return=played.episode_return,
            reason=played.reason,
            wall_s=time.monotonic() - self._started,
            label=played.label,
        )
        append_outcome(self.output, outcome)
        if played.metrics:
            self._run.keep(played.metrics)
        shown = [f"{name} {played.metrics[name]:.4f}" for name in SHOWN if name in played.metrics]
        print(
            f"episode {kept}/{self._arguments.dataset.num_episodes}: {played.label}, "
            f"{played.steps} steps, return {played.episode_return:.2f}"
            + "".join(f", {text}" for text in shown),
            flush=True,
        )

    def close(self) -> None:
        """Hold the arm, and make dataset and run complete on disk."""
        try:
            self._robot.disconnect()
        finally:
            self._recording.close()
            self._run.close()
