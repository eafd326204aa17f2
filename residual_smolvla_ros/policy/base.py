"""The frozen base: a LeRobot SmolVLA checkpoint that plans chunks of actions."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from draccus.utils import DraccusException
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE
from safetensors import SafetensorError

from residual_smolvla_ros.errors import CheckpointError, ConfigError
from residual_smolvla_ros.policy.action_units import affine
from residual_smolvla_ros.policy.vision import read_token_shape

Images = dict[str, np.ndarray]


class FrozenSmolVLA:
    """Plan chunks of normalised actions with a SmolVLA checkpoint whose weights never change.

    `checkpoint` is a folder written by `lerobot-train` (config.json, model.safetensors and the
    processors). A subfolder `vlm/` stands in for the hub's SmolVLM2 (configuration and
    tokenizer), so that a checkpoint works offline and wherever it is moved.

    Raises CheckpointError if the folder is not a SmolVLA checkpoint, and ConfigError for a device
    that is not there.
    """

    def __init__(self, checkpoint: str | Path, device: str = "cpu"):
        self.path = Path(checkpoint).expanduser()
        self.device = _device(device)
        config = self._load_config()
        overrides = {"device_processor": {"device": str(self.device)}}
        config.device = str(self.device)
        # The checkpoint holds all weights: the VLM's own need not be downloaded first.
        config.load_vlm_weights = False
        vlm = self.path / "vlm"
        if vlm.is_dir():
            config.vlm_model_name = str(vlm)
            overrides["tokenizer_processor"] = {"tokenizer_name": str(vlm)}
        try:
            self._policy = SmolVLAPolicy.from_pretrained(self.path, config=config, strict=True)
            self._preprocess, self._postprocess = make_pre_post_processors(
                config,
                pretrained_path=str(self.path),
                preprocessor_overrides=overrides,
                postprocessor_overrides={"device_processor": {"device": "cpu"}},
            )
        except (OSError, RuntimeError, KeyError, ValueError, SafetensorError) as error:
            # torch's first line only announces the errors of the others.
            lines = (str(error).strip() or type(error).__name__).splitlines()
            found = " ".join(line.strip() for line in lines[:2])
            raise CheckpointError(
                f"base checkpoint {self.path}: expected a complete SmolVLA checkpoint, "
                f"found: {found}"
            ) from None
        self._policy.to(self.device).eval().requires_grad_(False)
        # LeRobot's steps keep what they work on, and tokens are encoded beside the plans.
        self._preprocessing = threading.Lock()
        self.config = config
        self.chunk_size = config.n_action_steps
        self.action_size = config.action_feature.shape[0]
        self.state_size = config.robot_state_feature.shape[0]
        self.cameras = tuple(
            key.removeprefix(f"{OBS_IMAGES}.") for key in sorted(config.image_features)
        )
        self._action_scale, self._action_offset = affine(self._unnormalise, self.action_size)
        self._state_scale, self._state_offset = affine(self._normalise, self.state_size)

    def _load_config(self) -> PreTrainedConfig:
        if not (self.path / "config.json").is_file():
            raise CheckpointError(
                f"base checkpoint {self.path}: expected a folder with config.json, found "
                + ("no config.json in it" if self.path.is_dir() else "no such folder")
            )
        try:
            config = PreTrainedConfig.from_pretrained(self.path)
        except (ValueError, TypeError, DraccusException) as error:
            raise CheckpointError(
                f"base checkpoint {self.path}: expected a config.json of smolvla, "
                f"found: {str(error).splitlines()[0][:200]}"
            ) from None
        if config.type != "smolvla":
            raise CheckpointError(
                f"base checkpoint {self.path}: expected policy type smolvla, found {config.type}"
            )
        for kind in (FeatureType.STATE, FeatureType.VISUAL):
            if not any(feature.type is kind for feature in config.input_features.values()):
                raise CheckpointError(
                    f"base checkpoint {self.path}: expected an input feature of type "
                    f"{kind.name}, found {sorted(config.input_features)}"
                )
        if config.action_feature is None:
            raise CheckpointError(
                f"base checkpoint {self.path}: expected an output feature action, "
                f"found {sorted(config.output_features)}"
            )
        return config

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
        """Return the flow's initial noise (1, chunk, action) for integers that name it."""
        state = np.random.SeedSequence(seed).generate_state(2, np.uint32)
        generator = torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))
        shape = (1, self.config.chunk_size, self.config.max_action_dim)
        return torch.randn(shape, generator=generator).to(self.device)

    def plan(self, images: Images, state: np.ndarray, task: str, noise: torch.Tensor) -> np.ndarray:
        """Return the next actions (chunk, action_size), normalised.

        `images` are (H, W, 3) uint8 RGB by camera name, `state` (joints,) in LeRobot's units.
        """
        return self.plan_batch([images], np.asarray(state)[None], task, noise)[0]

    @torch.no_grad()
    def plan_batch(
        self, images: Sequence[Images], states: np.ndarray, task: str, noise: torch.Tensor
    ) -> np.ndarray:
        """Return the next actions (n, chunk, action_size) of n robots, as `plan` does of one.

        `states` are (n, joints), `noise` (n, ...) the rows that `make_noise` makes.
        """
        batch = self._batch(images, states, task)
        chunks = self._policy.predict_action_chunk(batch, noise=noise)
        return chunks[:, : self.chunk_size].float().cpu().numpy()

    @property
    def token_shape(self) -> tuple[int, int, int]:
        """Cameras, places and channels of the tokens that `encode` returns."""
        return read_token_shape(self.path)

    @torch.no_grad()
    def encode(self, images: Sequence[Images], cameras: Sequence[str] = ()) -> np.ndarray:
        """Return the tokens (n, cameras, places, channels) of SmolVLA's vision encoder, float32.

        They come after its connector, in their places (row by row), with the cameras in the order
        of `cameras`. With `cameras` given, only those are looked at, and the others' tokens are 0.
        May be called beside `plan` from another thread.
        """
        seen = [name for name in self.cameras if not cameras or name in cameras]
        batch = self._batch(images, np.zeros((len(images), self.state_size)), "", seen)
        prepared, _ = self._policy.prepare_images(batch)
        # Cameras that the batch lacks come last, and are none of ours.
        present = [name for name in self.config.image_features if name in batch]
        by_name = dict(zip(present, prepared[: len(present)], strict=True))
        pixels = torch.cat([by_name[f"{OBS_IMAGES}.{name}"] for name in seen])
        tokens = self._policy.model.vlm_with_expert.embed_image(pixels).float().cpu().numpy()
        every = np.zeros((len(images), len(self.cameras), *tokens.shape[1:]), dtype=np.float32)
        for name, of_camera in zip(seen, np.split(tokens, len(seen)), strict=True):
            every[:, self.cameras.index(name)] = of_camera
        return every

    def _batch(
        self, images: Sequence[Images], states: np.ndarray, task: str, cameras: Sequence[str] = ()
    ) -> dict:
        observation = {
            f"{OBS_IMAGES}.{name}": torch.from_numpy(np.stack([row[name] for row in images]))
            .permute(0, 3, 1, 2)
            .float()
            / 255.0
            for name in cameras or self.cameras
        }
        observation[OBS_STATE] = torch.as_tensor(states, dtype=torch.float32)
        observation["task"] = [task] * len(images)
        with self._preprocessing:
            return self._preprocess(observation)

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
