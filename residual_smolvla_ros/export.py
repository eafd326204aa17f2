"""The command `export`: base and residual as a folder that LeRobot takes as `--policy.path`."""

import json
import shutil
from pathlib import Path

from residual_smolvla_ros.arguments import (
    Argument,
    ArgumentError,
    boolean,
    check_new,
    parse_values,
    whole_number,
)
from residual_smolvla_ros.errors import CheckpointError, ConfigError

EXPORT = "export"
ARGUMENTS = tuple(
    Argument(name, default, text, parse, (EXPORT,))
    for name, default, text, parse in (
        ("residual_checkpoint", "", "run or checkpoint whose residual to export", str),
        ("output", "", "folder to write; new or empty", str),
        ("base_checkpoint", "", "folder of the base; default: the one it was trained with", str),
        ("max_steps", "0", "time limit in control steps; 0: that of the run", whole_number),
        (
            "simulator",
            "false",
            "true: also where the residual sees what the simulator alone tells",
            boolean,
        ),
    )
)


def run(given: dict[str, str]) -> int:
    """Write the folder; return an exit code.

    Raises ValueError with one line for what cannot work; `output` is written whole or not at all.
    """
    values = parse_values(ARGUMENTS, given)
    for name in ("residual_checkpoint", "output"):
        if not values[name]:
            raise ArgumentError(f"{EXPORT}: expected {name}:=<folder>, found none")
    output = Path(values["output"]).expanduser().resolve()
    check_new(output, "output")
    # Only now: a wrong argument is refused at once, without seconds of imports.
    from residual_smolvla_ros.learning.checkpoint import load_checkpoint

    residual = load_checkpoint(values["residual_checkpoint"])
    base = Path(values["base_checkpoint"] or residual.run.get("base_checkpoint", ""))
    if not values["base_checkpoint"] and not base.is_dir():
        raise CheckpointError(
            f"residual checkpoint {residual.path}: expected its base in {base}, found no such "
            "folder; give base_checkpoint:=<folder>"
        )
    steps = values["max_steps"] or time_limit(residual.path)
    if not steps and "episode_time" in residual.config.features:
        raise ArgumentError(
            "max_steps: expected the time limit in control steps, since no episode of the run "
            "came to it, found 0"
        )
    write(residual, base.expanduser().resolve(), output, steps or 1, values["simulator"])
    print(f"written: {output}\nact with it: lerobot-rollout --policy.path={output} ...")
    return 0


def time_limit(checkpoint: Path) -> int:
    """Return after how many control steps a run's episodes were cut; 0 where none was."""
    file = checkpoint.parent.parent / "episodes.jsonl"
    limits = [0]
    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            row = json.loads(line)
            limits += [row["steps"]] if row["reason"] == "truncated" else []
        except (ValueError, KeyError, TypeError):  # a line that a kill cut short
            continue
    return max(limits)


def write(residual, base: Path, output: Path, max_steps: int, simulator: bool) -> None:
    """Write the folder of a `ResidualCheckpoint` and its base."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.utils.constants import OBS_ENV_STATE

    from residual_smolvla_ros.lerobot_plugin.configuration_residual import (
        BASE,
        ENVIRONMENT_STATE,
        RESIDUAL,
        BaseAndResidualConfig,
    )
    from residual_smolvla_ros.lerobot_plugin.modeling_residual import (
        BaseAndResidualPolicy,
        needed_of_simulator,
    )
    from residual_smolvla_ros.lerobot_plugin.processor_residual import (
        make_residual_smolvla_pre_post_processors,
    )
    from residual_smolvla_ros.policy.base import load_base

    needed = needed_of_simulator(residual.config)
    if needed and not simulator:
        raise ConfigError(
            "features: expected what a robot of LeRobot tells, found "
            f"{', '.join(needed)}; for lerobot-eval in simulation give simulator:=true"
        )
    loaded = load_base(base)
    inputs = dict(loaded.config.input_features)
    if needed:
        size = sum(ENVIRONMENT_STATE.values())
        inputs[OBS_ENV_STATE] = PolicyFeature(FeatureType.ENV, (size,))
    config = BaseAndResidualConfig(
        input_features=inputs,
        output_features=loaded.config.output_features,
        max_steps=max_steps,
        push_to_hub=False,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.parent / f".{output.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        shutil.copytree(base, temporary / BASE)
        # What training alone needs stays behind.
        leave = shutil.ignore_patterns("training.safetensors")
        shutil.copytree(residual.path, temporary / RESIDUAL, ignore=leave)
        for processor in make_residual_smolvla_pre_post_processors(config):
            processor.save_pretrained(temporary)
        BaseAndResidualPolicy(config, temporary)  # refuses what does not fit together
        config.device = None  # that of the machine where it will act
        config.save_pretrained(temporary)
        if output.is_dir():
            output.rmdir()
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
