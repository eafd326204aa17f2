"""After how many control steps a policy needs new images: for its plans, and for what it sees."""

import json
from pathlib import Path

from residual_smolvla_ros.config_file import read_parameters
from residual_smolvla_ros.errors import CheckpointError, ConfigError
from residual_smolvla_ros.planning import make_planning

# Of ResidualConfig, where a config does not say.
VISION_PERIOD_STEPS = 10


def plan_steps(checkpoint: Path, config: Path, rate_hz: float) -> int:
    """Return after how many control steps of lockstep the base plans anew."""
    values = read_parameters(config, "policy")
    planning = make_planning(lambda name, default, description: values.get(name, default))
    return planning.period_steps(chunk_steps(checkpoint), rate_hz)


def chunk_steps(checkpoint: Path) -> int:
    """Return how many actions the base plans at once."""
    file = checkpoint / "config.json"
    if not file.is_file():
        found = "no config.json in it" if checkpoint.is_dir() else "no such folder"
        raise CheckpointError(
            f"base checkpoint {checkpoint}: expected a folder with config.json, found {found}"
        )
    try:
        return int(json.loads(file.read_text())["n_action_steps"])
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"base checkpoint {checkpoint}: expected n_action_steps in config.json, found none"
        ) from None


def vision_steps(config: Path, residual: str, training: bool) -> int:
    """Return after how many control steps the residual needs new images, 0 if it needs none."""
    settings = read_parameters(config, "learner") if training else {}
    if residual and not training:
        settings = _residual_settings(Path(residual).expanduser())
    steps = settings.get("vision_period_steps", VISION_PERIOD_STEPS)
    if type(steps) is not int or steps < 1:
        raise ConfigError(f"vision_period_steps: expected a whole number, 1 or more, found {steps}")
    features = settings.get("features")
    return steps if isinstance(features, list | dict) and "vision" in features else 0


def _residual_settings(folder: Path) -> dict:
    """Return what a checkpoint, or one of those of a run, says of its residual."""
    for pattern in ("state.json", "*/state.json", "checkpoints/*/state.json"):
        for file in sorted(folder.glob(pattern)):
            try:
                return json.loads(file.read_text())["residual"]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # the node that loads it says what is wrong
    return {}
