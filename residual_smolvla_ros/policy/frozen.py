"""A LeRobot policy checkpoint that plans chunks of actions, and never changes."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from draccus.utils import DraccusException
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE
from safetensors import SafetensorError, safe_open

from residual_smolvla_ros.errors import CheckpointError, ConfigError
from residual_smolvla_ros.policy.action_units import affine
from residual_smolvla_ros.policy.chunk_player import PlanRequest

Images = dict[str, np.ndarray]


class FrozenPolicy:
    """Plan chunks of normalised actions with a policy of LeRobot whose weights never change.

    `checkpoint` is a folder written by `lerobot-train` (config.json, model.safetensors and the
    processors). A subfolder `vlm/` stands in for the hub's language model (configuration and
    tokenizer), so that a checkpoint works offline and wherever it is moved. A policy that looks
    back at several observations gets the present one as often, as LeRobot itself does at an
    episode's first step.

    Raises CheckpointError if the folder is not the checkpoint of a policy with action chunks, and
    ConfigError for a device that is not there.
    """

    kind = "LeRobot policy"

    def __init__(self, checkpoint: str | Path, device: str = "cpu"):
        self.path = Path(checkpoint).expanduser()
        self.device = _device(device)
        config = self._load_config()
        config.device = str(self.device)
        overrides = {"device_processor": {"device": str(self.device)}}
        self._be_offline(config, overrides)
        try:
            policy_class = get_policy_class(config.type)
            self._policy = policy_class.from_pretrained(self.path, config=config, strict=True)
            self._preprocess, self._postprocess = make_pre_post_processors(
                config,
                pretrained_path=str(self.path),
                preprocessor_overrides=overrides,
                postprocessor_overrides={"device_processor": {"device": "cpu"}},
            )
        except (OSError, ImportError, RuntimeError, KeyError, ValueError, SafetensorError) as error:
            # torch's first line only announces the errors of the others.
            lines = (str(error).strip() or type(error).__name__).splitlines()
            found = " ".join(line.strip() for line in lines[:2])
            raise CheckpointError(
                f"base checkpoint {self.path}: expected a complete {self.kind} checkpoint, "
                f"found: {found}"
            ) from None
        self._policy.to(self.device).eval().requires_grad_(False)
        # LeRobot's steps keep what they work on, and tokens are encoded beside the plans.
        self._preprocessing = threading.Lock()
        self._overlap_steps: int | None = None  # of real-time chunking, where it is enabled
        self.config = config
        self.chunk_size = config.n_action_steps
        self.action_size = config.action_feature.shape[0]
        self.state_size = config.robot_state_feature.shape[0]
        self.cameras = tuple(
            key.removeprefix(f"{OBS_IMAGES}.") for key in sorted(config.image_features)
        )
        self._action_scale, self._action_offset = affine(self._unnormalise, self.action_size)
        self._state_scale, self._state_offset = affine(self._normalise, self.state_size)
        self._try()

    def _load_config(self) -> PreTrainedConfig:
        place = f"base checkpoint {self.path}: expected"
        if not (self.path / "config.json").is_file():
            raise CheckpointError(
                f"{place} a folder with config.json, found "
                + ("no config.json in it" if self.path.is_dir() else "no such folder")
            )
        try:
            config = PreTrainedConfig.from_pretrained(self.path)
        except (ValueError, TypeError, DraccusException) as error:
            raise CheckpointError(
                f"{place} a config.json of a {self.kind}, found: {str(error).splitlines()[0][:200]}"
            ) from None
        self._check_type(config)
        for kind in (FeatureType.STATE, FeatureType.VISUAL):
            if not any(feature.type is kind for feature in config.input_features.values()):
                raise CheckpointError(
                    f"{place} an input feature of type {kind.name}, "
                    f"found {sorted(config.input_features)}"
                )
        if config.action_feature is None:
            raise CheckpointError(
                f"{place} an output feature action, found {sorted(config.output_features)}"
            )
        return config

    def _check_type(self, config: PreTrainedConfig) -> None:
        """Raise CheckpointError for a policy whose chunks or inputs are of another kind."""
        place = f"base checkpoint {self.path}: expected"
        if not hasattr(config, "n_action_steps"):
            raise CheckpointError(f"{place} a policy with action chunks, found type {config.type}")
        for name in ("use_relative_actions", "temporal_ensemble_coeff"):
            if getattr(config, name, None):
                raise CheckpointError(
                    f"{place} chunks of absolute actions that are played as planned, "
                    f"found {name}: {getattr(config, name)}"
                )
        strange = [
            name
            for name in config.input_features
            if name != OBS_STATE and not name.startswith(f"{OBS_IMAGES}.")
        ]
        if strange:
            raise CheckpointError(
                f"{place} inputs {OBS_STATE} and {OBS_IMAGES}.<camera>, found {sorted(strange)}"
            )

    def _be_offline(self, config: PreTrainedConfig, overrides: dict) -> None:
        """Let the folder's files stand in for the hub's; the checkpoint holds all weights."""
        if hasattr(config, "pretrained_backbone_weights"):
            config.pretrained_backbone_weights = None
        vlm = self.path / "vlm"
        if vlm.is_dir():
            overrides["tokenizer_processor"] = {"tokenizer_name": str(vlm)}

    def _try(self) -> None:
        """Refuse weights that were not taken, and a policy that cannot plan from one observation.

        LeRobot's pi0 only prints that it could not load its weights, and goes on with random ones.
        """
        state = self._policy.state_dict()
        try:
            with safe_open(self.path / "model.safetensors", "pt") as stored:
                names = stored.keys()  # no mapping: it cannot be iterated over
                shapes = {name: stored.get_slice(name).get_shape() for name in names}
        except (OSError, SafetensorError) as error:
            shapes = {f"({' '.join(str(error).split())})": []}
        for name, shape in shapes.items():
            taken = state.get(name, state.get(f"model.{name}"))
            if taken is None or list(taken.shape) != list(shape):
                raise CheckpointError(
                    f"base checkpoint {self.path}: expected weights of its config.json, "
                    f"found: {name} {shape}"
                )
        shapes = {n: self.config.image_features[f"{OBS_IMAGES}.{n}"].shape for n in self.cameras}
        images = {name: np.zeros((h, w, 3), np.uint8) for name, (_, h, w) in shapes.items()}
        try:
            found = self.plan(images, np.zeros(self.state_size), "", self.make_noise(0)).shape
        except (RuntimeError, KeyError, ValueError, TypeError, AssertionError) as error:
            found = " ".join(str(error).split()) or type(error).__name__
        expected = (self.chunk_size, self.action_size)
        if found != expected:
            raise CheckpointError(
                f"base checkpoint {self.path}: expected a plan {expected} from one observation, "
                f"found: {found}"
            )

    def check_robot(self, cameras: list[str], joint_names: list[str]) -> None:
        """Raise CheckpointError unless the robot has the cameras and joints of the checkpoint."""
        missing = set(self.cameras) - set(cameras)
        if missing:
            raise CheckpointError(
                f"base checkpoint {self.path}: expected cameras {sorted(self.cameras)}, "
                f"found {sorted(cameras)}"
            )
        for name, size in (("state", self.state_size), ("action", self.action_size)):
            if size != len(joint_names):
                raise CheckpointError(
                    f"base checkpoint {self.path}: expected a {name} of {size} joints, "
                    f"found {len(joint_names)}: {list(joint_names)}"
                )

    def make_noise(self, *seed: int) -> torch.Tensor:
        """Return what a plan's randomness comes from, a row (1, 1), for integers that name it."""
        high, low = np.random.SeedSequence(seed).generate_state(2, np.uint32)
        return torch.tensor([[int(high >> 1) << 32 | int(low)]])

    def enable_rtc(self, overlap_steps: int) -> None:
        """Guide plans by what is left of the present chunk, where a request tells of it.

        In `overlap_steps` after the switch the guidance fades. Raises ConfigError where the
        policy has no real-time chunking.
        """
        if not (hasattr(self._policy, "supports_rtc") and self._policy.supports_rtc()):
            raise ConfigError(
                f"plan_switch: expected a base with real-time chunking for rtc, "
                f"found {self.config.type}"
            )
        self.config.rtc_config = RTCConfig(execution_horizon=max(overlap_steps, 1))
        self._policy.init_rtc_processor()
        self._overlap_steps = overlap_steps

    def plan(
        self,
        images: Images,
        state: np.ndarray,
        task: str,
        noise: torch.Tensor,
        request: PlanRequest | None = None,
    ) -> np.ndarray:
        """Return the next actions (chunk, action_size), normalised.

        `images` are (H, W, 3) uint8 RGB by camera name, `state` (joints,) in LeRobot's units.
        """
        requests = [request] if request else ()
        return self.plan_batch([images], np.asarray(state)[None], task, noise, requests)[0]

    @torch.no_grad()
    def plan_batch(
        self,
        images: Sequence[Images],
        states: np.ndarray,
        task: str | Sequence[str],
        noise: torch.Tensor,
        requests: Sequence[PlanRequest] = (),
    ) -> np.ndarray:
        """Return the next actions (n, chunk, action_size) of n robots, as `plan` does of one.

        `states` are (n, joints), `task` one for all or one each, `noise` (n, ...) the rows that
        `make_noise` makes, `requests` one each, of the same phase.
        """
        batch = self._batch(images, states, task)
        chunks = self._chunks(batch, noise, **self._guidance(requests))
        return chunks[:, : self.chunk_size].float().cpu().numpy()

    @property
    def is_guided(self) -> bool:
        """Whether plans are guided by what is left of the present chunk."""
        return self._overlap_steps is not None

    def _guidance(self, requests: Sequence[PlanRequest]) -> dict:
        """Return what real-time chunking is told of the chunks that the new ones take over from."""
        if not self.is_guided or not requests or requests[0].left_over is None:
            return {}
        left_over = torch.from_numpy(np.stack([request.left_over for request in requests]))
        return {
            "prev_chunk_left_over": left_over.to(self.device),
            "inference_delay": requests[0].lead,
            "execution_horizon": requests[0].lead + self._overlap_steps,
        }

    def _chunks(self, batch: dict, noise: torch.Tensor, **guidance) -> torch.Tensor:
        """Return the chunks (n, chunk, action_size), one after the other: each has its seed."""
        chunks = []
        devices = [self.device] if self.device.type == "cuda" else []
        for row, seed in enumerate(noise.flatten().tolist()):
            one = {name: self._history(value, row) for name, value in batch.items()}
            # Whatever the policy draws comes from here, and the global generators are left alone.
            with torch.random.fork_rng(devices):
                torch.manual_seed(seed)
                chunks.append(self._policy.predict_action_chunk(one, **guidance))
        return torch.cat(chunks)

    def _history(self, value, row: int):
        """Return one row of a batch, repeated where the policy looks back."""
        if not isinstance(value, torch.Tensor):
            return value
        value, steps = value[row : row + 1], self.config.n_obs_steps
        return value.unsqueeze(1).repeat_interleave(steps, dim=1) if steps > 1 else value

    @property
    def token_shape(self) -> tuple[int, int, int] | None:
        """Cameras, places and channels of the tokens that it can encode; None where it cannot."""
        return None

    def _batch(
        self,
        images: Sequence[Images],
        states: np.ndarray,
        task: str | Sequence[str],
        cameras: Sequence[str] = (),
    ) -> dict:
        observation = {
            f"{OBS_IMAGES}.{name}": self._pixels(np.stack([row[name] for row in images]))
            for name in cameras or self.cameras
        }
        observation[OBS_STATE] = torch.as_tensor(states, dtype=torch.float32)
        observation["task"] = [task] * len(images) if isinstance(task, str) else list(task)
        with self._preprocessing:
            return self._preprocess(observation)

    def _pixels(self, images: np.ndarray) -> torch.Tensor:
        """Return images (n, H, W, 3) uint8 as LeRobot has them: (n, 3, H, W) from 0 to 1."""
        return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0

    @property
    def action_std(self) -> np.ndarray:
        """Size of one normalised unit of action (action_size,) in LeRobot's units."""
        return np.abs(self._action_scale)

    def normalise_state(self, state: np.ndarray) -> np.ndarray:
        """Normalise joint positions (joints,) in LeRobot's units by the checkpoint's statistics."""
        return np.asarray(state, dtype=np.float32) * self._state_scale + self._state_offset

    def unnormalise_action(self, action: np.ndarray) -> np.ndarray:
        """Turn a normalised action (action_size,) into LeRobot's units."""
        return np.asarray(action, dtype=np.float32) * self._action_scale + self._action_offset

    def _normalise(self, value: torch.Tensor) -> torch.Tensor:
        return self._preprocess({OBS_STATE: value, "task": ""})[OBS_STATE]

    def _unnormalise(self, value: torch.Tensor) -> torch.Tensor:
        return self._postprocess(value)


def _device(name: str) -> torch.device:
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"device: expected a torch device of this machine, found {name!r}: {reason}"
        ) from None
