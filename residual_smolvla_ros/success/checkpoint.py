"""The folder of a reward model: what it configures, and that it brings no code along.

LeRobot loads what a reward model names (its encoder, its VLM) with `trust_remote_code=True`. What
is named must therefore be a local folder without code, unless the user allows more.
"""

import contextlib
import json
from pathlib import Path

from draccus.utils import DraccusException
from huggingface_hub import constants
from lerobot.configs.rewards import RewardModelConfig

from residual_smolvla_ros.errors import CheckpointError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Of each kind, the field of its configuration that names a further model.
NAMED_MODEL = {
    "reward_classifier": "model_name",
    "robometer": "base_model_id",
    "topreward": "vlm_name",
}
# TOPReward has no weights of its own, and of Robometer's VLM only the processor is read.
HAS_WEIGHTS = ("reward_classifier", "robometer")
NAMES_WEIGHTS = ("reward_classifier", "topreward")


def find_checkpoint(path: str | Path) -> Path:
    """Return the folder that holds config.json: `path`, or the last one of a run of lerobot-train.

    Raises CheckpointError if there is none.
    """
    if not str(path):
        raise CheckpointError("success model: expected a folder, found none")
    folder = Path(path).expanduser().resolve()
    for place in (folder, folder / "checkpoints" / "last" / "pretrained_model"):
        if (place / CONFIG).is_file():
            return place
    found = f"no {CONFIG} in it" if folder.is_dir() else "no such folder"
    raise CheckpointError(f"success model {path}: expected a folder with {CONFIG}, found {found}")


def load_config(folder: Path, allow_hub: bool, allow_code: bool) -> RewardModelConfig:
    """Return the configuration in a folder, with the model that it names as an absolute path.

    Raises CheckpointError for a kind that cannot be used here, for a damaged file, and for a named
    model that is no local folder or brings code.
    """
    where = f"success model {folder}"
    raw = read_object(folder / CONFIG, where)
    kind = raw.get("type")
    if kind == "sarm":
        # Its window reaches as far into the future as into the past, it reads joint states, and
        # its processor takes CLIP from the hub by a fixed name.
        raise CheckpointError(
            f"{where}: expected a model that judges the images so far, found sarm, which needs "
            "those that follow too"
        )
    if kind not in NAMED_MODEL:
        raise CheckpointError(
            f"{where}: expected a reward model out of {', '.join(NAMED_MODEL)}, found {kind!r}"
        )
    check_code(raw, f"{where}: {CONFIG}", allow_hub, allow_code)
    if kind == "robometer" and not raw.get("vlm_config") and not allow_hub:
        raise CheckpointError(
            f"{where}: expected vlm_config in {CONFIG}, found none; allow_hub permits to fetch it"
        )
    try:
        config = RewardModelConfig.from_pretrained(folder)
    except (ValueError, TypeError, DraccusException) as error:
        raise CheckpointError(
            f"{where}: expected a {CONFIG} of {kind}, found: {one_line(error)}"
        ) from None
    field = NAMED_MODEL[kind]
    place = find_named_model(
        folder,
        getattr(config, field),
        f"{where}: {field}",
        kind in NAMES_WEIGHTS,
        allow_hub,
        allow_code,
    )
    setattr(config, field, place)
    if kind in HAS_WEIGHTS and not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{where}: expected {WEIGHTS}, found none")
    config.pretrained_path = str(folder)
    return config


def find_named_model(
    folder: Path, name: str, where: str, weights: bool, allow_hub: bool, allow_code: bool
) -> str:
    """Return where the model that a configuration names is: absolute, or relative to `folder`.

    A name of the hub is returned as it is where `allow_hub` is set. Raises CheckpointError,
    beginning with `where`, for what is no folder, brings code, or lacks `weights`.
    """
    place = folder / Path(name).expanduser()
    if not place.is_dir():
        if allow_hub:
            return name
        raise CheckpointError(
            f"{where}: expected a folder, absolute or within the checkpoint, found {name!r}; "
            "allow_hub permits to fetch it, with its code"
        )
    for file in sorted(place.glob("*.json")):
        check_code(_read_json(file, where), f"{where}: {file.name}", allow_hub, allow_code)
    # Else transformers reads pickled weights.
    if weights and not any(place.glob("*.safetensors")):
        raise CheckpointError(f"{where}: expected weights in safetensors, found none in {place}")
    return str(place.resolve())


def check_code(value, where: str, allow_hub: bool = False, allow_code: bool = False) -> None:
    """Raise CheckpointError if a configuration names code that is not allowed to run.

    `auto_map` names classes: `module.Class` of a Python file in the folder, `repo--module.Class` of
    one in another repository, which transformers fetches even where the folder is local.
    """
    if isinstance(value, list):
        for item in value:
            check_code(item, where, allow_hub, allow_code)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key == "auto_map":
            _check_references(item, where, allow_hub, allow_code)
        else:
            check_code(item, where, allow_hub, allow_code)


def _check_references(value, where: str, allow_hub: bool, allow_code: bool) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_references(item, where, allow_hub, allow_code)
    elif "--" in str(value) and not allow_hub:
        raise CheckpointError(
            f"{where}: expected no code from elsewhere, found auto_map {value!r}; "
            "allow_hub permits to fetch and run it"
        )
    elif value is not None and "--" not in str(value) and not allow_code:
        raise CheckpointError(
            f"{where}: expected no code, found auto_map {value!r}; allow_code permits to run it"
        )


@contextlib.contextmanager
def hub(allowed: bool):
    """Keep Hugging Face's client offline meanwhile, unless the hub is allowed."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not allowed
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def one_line(error: Exception, limit: int = 300) -> str:
    """Return what an error says, as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]} ..."


def _read_json(file: Path, where: str):
    try:
        return json.loads(file.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: expected JSON in {file.name}, found: {one_line(error)}"
        ) from None


def read_object(file: Path, where: str) -> dict:
    """Return the object in a JSON file; raise CheckpointError, beginning with `where`."""
    value = _read_json(file, where)
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: expected an object in {file.name}, found {value!r:.50}")
    return value
