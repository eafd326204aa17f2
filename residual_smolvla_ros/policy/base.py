"""The frozen base: a SmolVLA checkpoint, or one of another LeRobot policy with action chunks."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.utils.constants import OBS_IMAGES

from residual_smolvla_ros.errors import CheckpointError, ConfigError
from residual_smolvla_ros.planning import AS_LEROBOT, INLINE, RTC, Acceleration, Planning
from residual_smolvla_ros.policy.acceleration import accelerate, upload
from residual_smolvla_ros.policy.frozen import FrozenPolicy, Images
from residual_smolvla_ros.policy.vision import read_token_shape


class FrozenSmolVLA(FrozenPolicy):
    """Plan chunks of normalised actions with SmolVLA, and show what its vision encoder sees.

    Raises CheckpointError if the folder is not a SmolVLA checkpoint.
    """

    kind = "SmolVLA"
    _uploads = False

    def _check_type(self, config: PreTrainedConfig) -> None:
        if config.type != "smolvla":
            raise CheckpointError(
                f"base checkpoint {self.path}: expected policy type smolvla, found {config.type}"
            )

    def _be_offline(self, config: PreTrainedConfig, overrides: dict) -> None:
        super()._be_offline(config, overrides)
        config.load_vlm_weights = False
        vlm = self.path / "vlm"
        if vlm.is_dir():
            config.vlm_model_name = str(vlm)

    def _try(self) -> None:
        """Spare SmolVLA the trial: what it needs is known, and a plan takes it seconds."""

    def make_noise(self, *seed: int) -> torch.Tensor:
        """Return the flow's initial noise (1, chunk, action) for integers that name it."""
        state = np.random.SeedSequence(seed).generate_state(2, np.uint32)
        generator = torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))
        shape = (1, self.config.chunk_size, self.config.max_action_dim)
        return torch.randn(shape, generator=generator).to(self.device)

    def _chunks(self, batch: dict, noise: torch.Tensor, **guidance) -> torch.Tensor:
        return self._policy.predict_action_chunk(batch, noise=noise, **guidance)

    def accelerate(self, acceleration: Acceleration) -> None:
        """Plan as `acceleration` says; compiles and captures now, which may take minutes.

        Raises ConfigError where that does not work here.
        """
        accelerate(self._policy, acceleration)
        self._uploads = self.device.type == "cuda"
        shapes = {n: self.config.image_features[f"{OBS_IMAGES}.{n}"].shape for n in self.cameras}
        images = {name: np.zeros((h, w, 3), np.uint8) for name, (_, h, w) in shapes.items()}
        try:
            self.plan(images, np.zeros(self.state_size), "", self.make_noise(0))
        except RuntimeError as error:  # of torch, which finds no compiler or no memory
            found = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise ConfigError(
                f"precision, compile, cuda_graph: expected them to work here, found: {found}"
            ) from None

    def _pixels(self, images: np.ndarray) -> torch.Tensor:
        return upload(images, self.device) if self._uploads else super()._pixels(images)

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


def load_base(
    checkpoint: str | Path, device: str = "cpu", planning: Planning = INLINE
) -> FrozenPolicy:
    """Return the base of a checkpoint folder, whatever LeRobot policy with action chunks it is.

    Raises CheckpointError and ConfigError as FrozenPolicy does.
    """
    file = Path(checkpoint).expanduser() / "config.json"
    try:
        kind = json.loads(file.read_text())["type"]
    except (OSError, ValueError, KeyError, TypeError):
        kind = "smolvla"  # which says what is wrong with the folder
    base = (FrozenSmolVLA if kind == "smolvla" else FrozenPolicy)(checkpoint, device)
    if planning.acceleration != AS_LEROBOT:
        if not isinstance(base, FrozenSmolVLA):
            raise ConfigError(
                f"precision, compile, cuda_graph: expected a SmolVLA, found {base.config.type}"
            )
        base.accelerate(planning.acceleration)
    if planning.switch == RTC:
        base.enable_rtc(planning.overlap_steps)
    return base
