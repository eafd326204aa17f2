"""Base and residual composed: command = base + correction(clip(residual))."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from residual_smolvla_ros.planning import BLEND, INLINE, Planning
from residual_smolvla_ros.policy.action_space import GripperSpace, JointSpace, Kinematics
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.chunk_player import ChunkPlayer, PlanRequest
from residual_smolvla_ros.policy.features import (
    PLAN_AHEAD,
    STATE_CLIP,
    TCP_NAMES,
    VELOCITY_CLIP,
    ResidualConfig,
)
from residual_smolvla_ros.policy.frozen import FrozenPolicy
from residual_smolvla_ros.policy.tool_features import tool_features
from residual_smolvla_ros.policy.vision import TokenReducer


@dataclass(frozen=True)
class PolicyStep:
    """One control step."""

    features: np.ndarray
    base: np.ndarray  # the base's action, normalised
    residual: np.ndarray  # as sampled, before the clip: what log_prob belongs to
    correction: np.ndarray  # what the residual adds, in LeRobot's units
    command: np.ndarray  # base and correction, in LeRobot's units
    log_prob: float
    value: float
    tick: int
    decision: bool
    plan: PlanRequest | None = None  # what the plan that it plays was made for
    token_age: int = -1  # of the vision tokens, in control steps; -1 without


class ResidualPolicy:
    """Act with a frozen SmolVLA and a residual, one episode after the other.

    Ask `plan_due` before each step, and have a plan made for what `ask_for_plan` returns; where
    `needs_plan`, the step cannot be taken without it. A plan takes over `delay_steps` steps after
    the observation that it was made from, or later.
    Where the residual sees vision tokens, they are due every `vision_period_steps`: ask
    `needs_tokens`, then call `see`.
    All randomness of an episode comes from the seed given to `begin_episode`.
    """

    def __init__(
        self,
        base: FrozenPolicy,
        task: str = "",
        kinematics: Kinematics | None = None,
        planning: Planning = INLINE,
        delay_steps: int = 0,
    ):
        self.base = base
        self.task = task
        self._kinematics = kinematics
        self.network: ResidualActorCritic | None = None
        self.version = -1
        self.player = ChunkPlayer(planning.overlap_steps, planning.switch == BLEND)
        self.player.lead = self._delay_steps = delay_steps

    @property
    def config(self) -> ResidualConfig:
        """The residual's configuration, known once weights have been loaded."""
        if self.network is None:
            raise RuntimeError("expected residual weights before the first step, found none")
        return self.network.config

    def load_weights(
        self, config: ResidualConfig, weights: dict[str, torch.Tensor], version: int
    ) -> None:
        """Swap in weights; what is held of the last decision goes on.

        Raises ValueError if they do not fit `config` or the base.
        """
        if self.network is not None and self.network.config == config:
            # Within a control step: nothing is made anew.
            self._load(self.network, weights)
            self.version = version
            return
        if config.action_size != self.base.action_size:
            raise ValueError(
                f"residual weights: expected an action of {self.base.action_size}, "
                f"found {config.action_size}"
            )
        if config.needs_kinematics and self._kinematics is None:
            raise ValueError("residual weights: expected kinematics of the robot, found none")
        if config.needs_tokens and self.base.token_shape is None:
            raise ValueError(
                "residual weights: expected a SmolVLA as base for the feature vision, "
                f"found {self.base.config.type}"
            )
        reducer = TokenReducer(config, self.base.cameras) if config.needs_tokens else None
        network = ResidualActorCritic(config)
        self._load(network, weights)
        if config.action_space == "gripper":
            self._space = GripperSpace(config, self._kinematics)
        else:
            self._space = JointSpace(config, self.base)
        self._reducer = reducer
        self.network = network.eval().requires_grad_(False)
        self.version = version

    @staticmethod
    def _load(network: ResidualActorCritic, weights: dict[str, torch.Tensor]) -> None:
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"residual weights: expected {network.config.feature_size} features "
                f"({', '.join(network.config.features)}), found other weights: "
                f"{str(error).strip().splitlines()[-1].strip()}"
            ) from None

    def begin_episode(
        self, seed: int, max_steps: int, use_residual: bool = True, explore: bool = True
    ) -> None:
        """Forget the plan and start an episode of at most `max_steps` steps.

        Without `use_residual` the base acts alone; without `explore` the residual is its mean.
        """
        self._seed = seed
        self._max_steps = max_steps
        self._use_residual = use_residual
        self._explore = explore and use_residual
        state = np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)
        self._generator = torch.Generator().manual_seed(int(state[0] >> 1))
        self._tick = 0
        self.player.begin()
        self._tokens: np.ndarray | None = None
        self._token_age = -1
        self._held: PolicyStep | None = None

    @property
    def tick(self) -> int:
        """Control steps taken in this episode."""
        return self._tick

    @property
    def needs_plan(self) -> bool:
        """Whether the next step must be preceded by a plan."""
        return self.player.is_out(self._tick)

    @property
    def plan_due(self) -> bool:
        """Whether it is time to ask for the next plan."""
        return self.player.is_due(self._tick)

    def replan(self) -> None:
        """Plan anew before the next step, and sample a residual anew."""
        self.player.outdate()
        self._held = None

    def plan(self, images: dict[str, np.ndarray], state: np.ndarray) -> None:
        """Let SmolVLA plan the next chunk from images (H, W, 3) and state in LeRobot's units."""
        request = self.ask_for_plan()
        self.take_plan(self.make_plan(request, images, state), request)

    def make_plan(
        self, request: PlanRequest, images: dict[str, np.ndarray], state: np.ndarray
    ) -> np.ndarray:
        """Return the chunk (chunk, action_size) of a request, normalised."""
        noise = self.base.make_noise(*self.noise_seed)
        return self.base.plan(images, state, self.task, noise, request)

    def ask_for_plan(self) -> PlanRequest:
        """Return what the next plan is to be made for: the observation of the present step."""
        return self.player.ask(self._tick)

    @property
    def noise_seed(self) -> tuple[int, int]:
        """What `base.make_noise` makes the noise of the next plan from."""
        return self._seed, self.player.taken

    def take_plan(self, chunk: np.ndarray, request: PlanRequest | None = None) -> None:
        """Follow a chunk (chunk, action_size), normalised, made from `noise_seed` for a request."""
        request = request or self.ask_for_plan()
        takes_over = max(self._tick, request.tick + self._delay_steps)
        if self.player.take(chunk, request, takes_over):
            self.player.reach(self._tick)

    @property
    def needs_tokens(self) -> bool:
        """Whether vision tokens are due: none in this episode yet, or a period old."""
        due = self._tokens is None or self._token_age >= self.config.vision_period_steps
        return self.config.needs_tokens and due

    @property
    def has_tokens(self) -> bool:
        """Whether the episode has the vision tokens that its features need, of whatever age."""
        return not self.config.needs_tokens or self._tokens is not None

    def see(self, tokens: np.ndarray, age_steps: int = 0) -> None:
        """Take vision tokens (cameras, places, channels) of images `age_steps` control steps old.

        They serve until the next ones, and grow older by one with every step.
        """
        self._tokens = self._reducer.reduce(tokens)
        self._token_age = age_steps

    @torch.inference_mode()
    def step(
        self,
        state: np.ndarray,
        extra: dict[str, np.ndarray] | None = None,
        residual: np.ndarray | None = None,
    ) -> PolicyStep:
        """Return the next action for the state (joints,) in LeRobot's units.

        `extra` holds what the features need beside it: `velocity` (joints,) in rad/s, `privileged`,
        and `target`, the position (3,) of the task's object in the base frame in m. A given
        `residual` (residual_size,) stands in for the network's where a decision is due.
        """
        state = _as_told(state)
        base = self.player.action(self._tick)
        features = self._features(state, extra or {})
        if self._held is None or self._tick - self._held.tick >= self.config.hold_steps:
            self._held = self._decide(features, state, residual)
        step = replace(
            self._held,
            features=features,
            base=base,
            command=self.base.unnormalise_action(base) + self._held.correction,
            tick=self._tick,
            decision=self._held.tick == self._tick,
            plan=self.player.request,
            token_age=self._token_age,
        )
        self._advance()
        return step

    def follow(
        self, command: np.ndarray, state: np.ndarray, extra: dict[str, np.ndarray] | None = None
    ) -> PolicyStep:
        """Return a step in which a person's command (joints,), in LeRobot's units, is sent.

        Its features are those that the policy would have seen, with the plan so far; its residual
        is the one that comes closest to what the person added to the plan.
        """
        features = self.features(state, extra)
        step = self._without_residual(features, self._planned(), command, decision=True)
        step = self.overrule(step, command, state)
        self._advance()
        return step

    def overrule(self, step: PolicyStep, command: np.ndarray, state: np.ndarray) -> PolicyStep:
        """Return a step with another command, and the residual that comes closest to it.

        The next step samples a residual anew, for the one so far is not acted on.
        """
        self._held = None
        correction = command - self.base.unnormalise_action(step.base)
        residual = self._space.residual(correction, _as_told(state)).astype(np.float32)
        return replace(step, command=command, correction=correction, residual=residual)

    def features(self, state: np.ndarray, extra: dict[str, np.ndarray] | None = None) -> np.ndarray:
        """Return the features (feature_size,) of a state; a critic bootstraps from the last."""
        return self._features(_as_told(state), extra or {})

    def finish(self, state: np.ndarray, extra: dict[str, np.ndarray] | None = None) -> PolicyStep:
        """Return the state after the last step as a step in which nothing is commanded."""
        none = np.zeros(self.base.action_size, dtype=np.float32)
        return self._without_residual(self.features(state, extra), none, none, decision=False)

    def _without_residual(
        self, features: np.ndarray, base: np.ndarray, command: np.ndarray, decision: bool
    ) -> PolicyStep:
        return PolicyStep(
            features=features,
            base=base,
            residual=np.zeros(self.config.residual_size, dtype=np.float32),
            correction=np.zeros_like(command),
            command=command,
            log_prob=0.0,
            value=0.0,
            tick=self._tick,
            decision=decision,
            plan=self.player.request,
            token_age=self._token_age,
        )

    def _advance(self) -> None:
        self._tick += 1
        if self._tokens is not None:
            self._token_age += 1
        self.player.reach(self._tick)

    def _planned(self, ahead: int = 0) -> np.ndarray:
        return self.player.action(self._tick + ahead)

    def _features(self, state: np.ndarray, extra: dict[str, np.ndarray]) -> np.ndarray:
        values = {
            "state": np.clip(self.base.normalise_state(state), -STATE_CLIP, STATE_CLIP),
            "base_action": self._planned(),
            "chunk_position": np.float32(self.player.index(self._tick) / len(self.player.chunk)),
            # A robot that LeRobot drives may go on beyond the time limit.
            "episode_time": np.float32(min(self._tick / self._max_steps, 1.0)),
        }
        if "privileged" in extra:
            values["privileged"] = extra["privileged"]
        if self._tokens is not None:
            values["vision"] = self._tokens
            values["vision_age"] = np.float32(self._token_age / self.config.vision_period_steps)
        if "velocity" in extra:
            values["velocity"] = np.clip(extra["velocity"], -VELOCITY_CLIP, VELOCITY_CLIP)
        if self.config.features.keys() & TCP_NAMES:
            commands = [self.base.unnormalise_action(self._planned(n)) for n in PLAN_AHEAD]
            values |= tool_features(self._kinematics, state, commands, extra.get("target"))
        return self.config.pack(values)

    def _decide(
        self, features: np.ndarray, state: np.ndarray, given: np.ndarray | None
    ) -> PolicyStep:
        mean, value = self.network(torch.from_numpy(features).unsqueeze(0))
        if given is not None:
            residual = torch.as_tensor(given, dtype=torch.float32).unsqueeze(0)
        elif self._explore:
            noise = torch.randn(mean.shape, generator=self._generator)
            residual = mean + torch.exp(self.network.log_std) * noise
        elif self._use_residual:
            residual = mean
        else:
            residual = torch.zeros_like(mean)
        log_prob = self.network.log_prob(mean, residual)
        sampled = residual[0].numpy()
        limit = self.config.residual_clip
        executed = self.network.gain.item() * np.clip(sampled, -limit, limit)
        correction = self._space.correction(executed, state)
        return PolicyStep(
            features=features,
            base=self._planned(),
            residual=sampled,
            correction=correction.astype(np.float32),
            command=state,
            log_prob=log_prob.item(),
            value=value.item(),
            tick=self._tick,
            decision=True,
        )


def _as_told(state: np.ndarray) -> np.ndarray:
    """Return a state as LeRobot's observations hold it, so that all who tell it get equal bits."""
    return np.asarray(state, dtype=np.float32)
