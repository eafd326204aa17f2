"""LeRobot's configuration of a frozen base with a residual: config.json of an exported folder."""

from dataclasses import dataclass, field

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode

from residual_smolvla_ros.errors import ConfigError

# Folders in an exported one: LeRobot's own checkpoint of the base, and ours of the residual.
BASE, RESIDUAL = "base", "residual"
# What `observation.environment_state` holds, in this order: parts that a simulator alone tells.
ENVIRONMENT_STATE = {"privileged": 12, "target": 3, "velocity": 6}
# Which of them each feature of the residual is made of.
TOLD_BY_SIMULATOR = {
    "privileged": "privileged",
    "target_from_tcp": "target",
    "target_from_plan": "target",
    "velocity": "velocity",
}


@PreTrainedConfig.register_subclass("residual_smolvla")
@dataclass
class BaseAndResidualConfig(PreTrainedConfig):
    """How the policy plays an episode.

    `max_steps` is the time limit that the residual was trained with, in control steps; `seed`
    names the base's noise in the first episode, and each further episode has the next one; without
    `use_residual` the base acts alone.
    """

    max_steps: int = 100
    seed: int = 0
    use_residual: bool = True
    n_action_steps: int = 1
    # LeRobot's parser passes this option, by which it was found, on to its fields.
    discover_packages_path: str | None = None
    # The base normalises within: outside it is all in LeRobot's units.
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(
            ("STATE", "VISUAL", "ENV", "ACTION"), NormalizationMode.IDENTITY
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("max_steps", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"policy.{name}: expected {least} or more, found {getattr(self, name)}"
                )

    @property
    def observation_delta_indices(self) -> None:
        """The present observation only."""
        return None

    @property
    def action_delta_indices(self) -> None:
        """No actions of a dataset: LeRobot does not train it."""
        return None

    @property
    def reward_delta_indices(self) -> None:
        """No rewards of a dataset."""
        return None

    def get_optimizer_preset(self):
        """Refuse lerobot-train."""
        raise ConfigError(
            "policy residual_smolvla: expected a command that acts with it, found training: "
            "residual-smolvla train or finetune trains residuals"
        )

    def get_scheduler_preset(self) -> None:
        """None: LeRobot does not train it."""
        return None

    def validate_features(self) -> None:
        """Nothing: the base checks its own features when it is loaded."""
