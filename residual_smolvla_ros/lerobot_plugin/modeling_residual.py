"""A frozen base with a residual as a policy of LeRobot: `--policy.path=<exported folder>`."""

import shutil
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import snapshot_download
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import OBS_ENV_STATE, OBS_IMAGES, OBS_STATE
from torch import Tensor

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.learning.checkpoint import load_checkpoint
from residual_smolvla_ros.lerobot_plugin.configuration_residual import (
    BASE,
    ENVIRONMENT_STATE,
    RESIDUAL,
    TOLD_BY_SIMULATOR,
    BaseAndResidualConfig,
)
from residual_smolvla_ros.policy.base import load_base
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.policy.look_ahead import look_ahead
from residual_smolvla_ros.policy.residual_policy import ResidualPolicy


def needed_of_simulator(residual: ResidualConfig) -> list[str]:
    """Return the features that an actor sees and no robot of LeRobot tells."""
    seen = residual.features.keys() - set(residual.critic_only)
    return sorted(seen & TOLD_BY_SIMULATOR.keys())


class BaseAndResidualPolicy(PreTrainedPolicy):
    """Act as the node `policy` does: deterministic, one robot a row of the batch.

    It plans and corrects with the same objects; this class turns LeRobot's batches into what they
    take, and their commands into LeRobot's actions, which are in LeRobot's units already.
    """

    config_class = BaseAndResidualConfig
    name = "residual_smolvla"

    def __init__(self, config: BaseAndResidualConfig, folder: Path | None = None, **others):
        super().__init__(config)
        folder = folder or config.pretrained_path
        if folder is None:
            raise ConfigError(
                "policy residual_smolvla: expected --policy.path=<folder that residual-smolvla "
                "export wrote>, found none"
            )
        self._folder = Path(folder)
        self._base = load_base(self._folder / BASE, config.device)
        self._residual = load_checkpoint(self._folder / RESIDUAL)
        self._kinematics = None
        if self._residual.config.needs_kinematics:
            # Only now: MuJoCo, for those who need it.
            from residual_smolvla_ros.robots.kinematics import Kinematics

            self._kinematics = Kinematics()
        self._policies = [self._make_policy()]  # one a row; kept from episode to episode
        self._playing = 0  # rows of the present episode
        self._episodes = 0

    def _make_policy(self) -> ResidualPolicy:
        policy, residual = ResidualPolicy(self._base, "", self._kinematics), self._residual
        policy.load_weights(residual.config, residual.weights, residual.counters["version"])
        return policy

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | None = None,
        revision: str | None = None,
        **others,
    ) -> "BaseAndResidualPolicy":
        """Load what `residual-smolvla export` wrote: a folder, or a repository of the hub."""
        folder = Path(pretrained_name_or_path)
        if not folder.is_dir():
            folder = Path(snapshot_download(str(pretrained_name_or_path), revision=revision))
        config = config or PreTrainedConfig.from_pretrained(folder)
        return cls(config, folder).eval()

    def _save_pretrained(self, save_directory: Path, state_dict: dict | None = None) -> None:
        shutil.copytree(self._folder, save_directory, dirs_exist_ok=True)
        self.config._save_pretrained(save_directory)

    def reset(self) -> None:
        """Let the next action begin an episode; a reset before its first step changes nothing."""
        self._episodes += self._playing
        self._playing = 0

    def _begin(self, rows: int) -> None:
        while len(self._policies) < rows:
            self._policies.append(self._make_policy())
        for row, policy in enumerate(self._policies[:rows]):
            seed = self.config.seed + self._episodes + row
            policy.begin_episode(
                seed, self.config.max_steps, self.config.use_residual, explore=False
            )
        self._playing = rows

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **others) -> Tensor:
        """Return the next actions (rows, joints) in LeRobot's units.

        Raises ValueError where the observation lacks what the base or the residual looks at.
        """
        states = self._read(batch, OBS_STATE, self._base.state_size)
        rows = len(states)
        if not self._playing:
            self._begin(rows)
        if rows != self._playing:
            raise ValueError(f"observation: expected {self._playing} rows, found {rows}")
        policies = self._policies[:rows]
        for policy, task in zip(policies, _tasks(batch, rows), strict=True):
            policy.task = task
        extras = self._extras(batch, rows)
        look_ahead(policies, states, lambda row, cameras: self._images(batch, row, cameras))
        commands = [
            policy.step(state, extra).command
            for policy, state, extra in zip(policies, states, extras, strict=True)
        ]
        return torch.from_numpy(np.stack(commands)).to(self.config.device)

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Tensor], **others) -> Tensor:
        """Return chunks (rows, 1, joints) of one action: each is corrected at its own state."""
        return self.select_action(batch)[:, None]

    def _read(self, batch: dict[str, Tensor], name: str, size: int) -> np.ndarray:
        """Return an observation (rows, size), float32."""
        value = batch.get(name)
        found = "none" if value is None else tuple(value.shape)
        if value is None or value.ndim != 2 or value.shape[1] != size:
            raise ValueError(f"observation: expected {name} (rows, {size}), found {found}")
        return value.float().cpu().numpy()

    def _images(self, batch: dict[str, Tensor], row: int, cameras) -> dict[str, np.ndarray]:
        """Return what cameras see, (H, W, 3) uint8: LeRobot has divided it by 255."""
        images = {}
        for name in cameras:
            image = batch.get(f"{OBS_IMAGES}.{name}")
            if image is None:
                seen = sorted(key for key in batch if key.startswith(OBS_IMAGES))
                raise ValueError(
                    f"observation: expected {OBS_IMAGES}.{name}, found {', '.join(seen) or 'none'}"
                )
            pixels = (image[row].permute(1, 2, 0) * 255.0).round()
            images[name] = pixels.to(torch.uint8).cpu().numpy()
        return images

    def _extras(self, batch: dict[str, Tensor], rows: int) -> list[dict[str, np.ndarray]]:
        """Return what features need beside the state; what only a critic sees may be zero."""
        sizes = dict(ENVIRONMENT_STATE)
        if OBS_ENV_STATE in batch:
            every = self._read(batch, OBS_ENV_STATE, sum(sizes.values()))
        else:
            if needed := needed_of_simulator(self._residual.config):
                raise ValueError(
                    f"observation: expected {OBS_ENV_STATE} for the features {', '.join(needed)}, "
                    "found none: only the environment so101_pick_lift tells them"
                )
            sizes["privileged"] = self._residual.config.features.get("privileged", 0)
            every = np.zeros((rows, sum(sizes.values())), dtype=np.float32)
        parts = np.split(every, np.cumsum(list(sizes.values()))[:-1], axis=1)
        return [dict(zip(sizes, of_row, strict=True)) for of_row in zip(*parts, strict=True)]

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict | None]:
        """Refuse lerobot-train, as `get_optim_params` does."""
        return self.config.get_optimizer_preset()

    def get_optim_params(self) -> dict:
        """Refuse lerobot-train."""
        return self.config.get_optimizer_preset()


def _tasks(batch: dict, rows: int) -> list[str]:
    task = batch.get("task", "")
    return [task] * rows if isinstance(task, str) else list(task)
