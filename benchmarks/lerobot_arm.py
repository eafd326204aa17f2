"""The simulated SO101 as a robot of LeRobot that does not wait: its time runs on in a process.

The arm steps 30 times a second with the last command that it got, renders its cameras at every
tick, and keeps the account: which ticks had a new command, how old it was, whether the task is
solved.
"""

import multiprocessing
import time
from dataclasses import dataclass, field

import numpy as np
from lerobot.robots import Robot, RobotConfig

from residual_smolvla_ros.api.observation import read_state, write_action
from residual_smolvla_ros.robots.simulation import CAMERAS, IMAGE_SIZE, RATE_HZ, SimulatedSO101
from residual_smolvla_ros.robots.units import JOINT_NAMES, lerobot_to_rad, rad_to_lerobot

PERIOD_S = 1.0 / RATE_HZ


@dataclass
class Episode:
    """What the arm saw of an episode, from its first command on."""

    ticks: int = 0
    missed: int = 0  # ticks without a new command
    seconds: float = 0.0
    latency_s: list[float] = field(default_factory=list)  # from the observation to the command
    plan_age_s: list[float] = field(default_factory=list)  # of the plan that was acted on
    success: bool = False


def run_arm(pipe, max_ticks: int) -> None:
    """Serve the requests of `SimArm` between ticks, until it hangs up."""
    sim = SimulatedSO101()
    sim.reset(0)
    episode, begun, done = Episode(), False, True
    target, fresh = sim.joint_positions(), False
    images = {name: sim.render(name) for name in CAMERAS}
    tick = time.monotonic() + PERIOD_S
    while True:
        while pipe.poll(max(0.0, tick - time.monotonic())):
            try:
                request, value = pipe.recv()
            except EOFError:
                sim.close()
                return
            if request == "begin":
                sim.reset(value)
                episode, begun, done = Episode(), False, False
                target, fresh = sim.joint_positions(), False
                images = {name: sim.render(name) for name in CAMERAS}
                pipe.send(None)
            elif request == "observe":
                pipe.send((rad_to_lerobot(sim.joint_positions()), images, done))
            elif request == "end":
                pipe.send(episode)
            elif not done:
                target, observed, planned = value
                now, begun, fresh = time.monotonic(), True, True
                episode.latency_s.append(now - observed)
                episode.plan_age_s.append(now - planned)
        tick += PERIOD_S
        if begun and not done:
            episode.ticks += 1
            episode.missed += not fresh
            episode.seconds += PERIOD_S
            fresh = False
        sim.step(target)
        images = {name: sim.render(name) for name in CAMERAS}
        if begun and not done:
            episode.success = sim.state().success
            done = episode.success or episode.ticks >= max_ticks


@RobotConfig.register_subclass("simulated_so101")
@dataclass
class SimArmConfig(RobotConfig):
    """`max_ticks` is the length of an episode in control periods, from its first command on."""

    max_ticks: int = 100


class SimArm(Robot):
    """The arm's process, seen from LeRobot's loops.

    `planned_at` is to be set when a plan takes over: the time of what it was made from.
    """

    config_class = SimArmConfig
    name = "simulated_so101"

    def __init__(self, config: SimArmConfig):
        super().__init__(config)
        self._max_ticks = config.max_ticks
        self._process = None
        self._observed_at = self.planned_at = time.monotonic()
        self.on_done = lambda: None

    @property
    def observation_features(self) -> dict:
        """Joint positions and images."""
        joints = {f"{name}.pos": float for name in JOINT_NAMES}
        return joints | dict.fromkeys(CAMERAS, (IMAGE_SIZE, IMAGE_SIZE, 3))

    @property
    def action_features(self) -> dict:
        """Joint targets."""
        return {f"{name}.pos": float for name in JOINT_NAMES}

    @property
    def is_connected(self) -> bool:
        """Whether the arm's process runs."""
        return self._process is not None

    @property
    def is_calibrated(self) -> bool:
        """There is nothing to calibrate."""
        return True

    def calibrate(self) -> None:
        """Do nothing."""

    def configure(self) -> None:
        """Do nothing."""

    def connect(self, calibrate: bool = True) -> None:
        """Start the arm's process."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=run_arm, args=(theirs, self._max_ticks), daemon=True)
        self._process.start()
        theirs.close()

    def _ask(self, request: str, value=None):
        self._pipe.send((request, value))
        return self._pipe.recv()

    def begin(self, seed: int) -> None:
        """Set a scene; its time is counted from the first command on."""
        self._ask("begin", seed)

    def end(self) -> Episode:
        """Return the account of the episode."""
        return self._ask("end")

    def get_observation(self) -> dict:
        """Return joints in LeRobot's units and images; call `on_done` once an episode is over."""
        self._observed_at = time.monotonic()
        state, images, done = self._ask("observe")
        if done:
            self.on_done()
        return write_action(state) | images

    def send_action(self, action: dict) -> dict:
        """Let the arm go for a target from its next tick on."""
        target = lerobot_to_rad(np.asarray(read_state(action)))
        self._pipe.send(("command", (target, self._observed_at, self.planned_at)))
        return action

    def disconnect(self) -> None:
        """End the arm's process."""
        if self._process is not None:
            self._pipe.close()
            self._process.join()
            self._process = None
