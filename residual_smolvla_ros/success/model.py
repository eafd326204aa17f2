"""A LeRobot reward model from a checkpoint folder, asked for one probability at a time."""

import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.rewards import RewardModelConfig
from lerobot.processor import DeviceProcessorStep, PolicyProcessorPipeline
from lerobot.rewards import make_reward_model, make_reward_pre_post_processors
from safetensors import SafetensorError, safe_open

from residual_smolvla_ros.errors import CheckpointError, ConfigError
from residual_smolvla_ros.success.checkpoint import (
    CONFIG,
    HAS_WEIGHTS,
    WEIGHTS,
    find_checkpoint,
    hub,
    load_config,
    one_line,
    read_object,
)
from residual_smolvla_ros.success.images import resize, to_tensor
from residual_smolvla_ros.success.kinds import camera_of, describe

PREPROCESSOR = "classifier_preprocessor.json"


class SuccessModel:
    """Tell from camera images how probable it is that the task is done.

    `meaning` says what the number is, `cameras` names the cameras that it needs, and `normalised`
    whether the checkpoint has the preprocessor that it was trained with.
    """

    def __init__(self, folder: Path, config: RewardModelConfig, model, preprocess):
        self.folder = folder
        self.type = config.type
        self._kind = describe(config)
        self.meaning = self._kind.meaning
        self.normalised = config.type != "reward_classifier" or (folder / PREPROCESSOR).is_file()
        self._model, self._preprocess = model, preprocess
        self._sizes = {
            camera_of(key): tuple(config.input_features[key].shape[-2:])
            for key in self._kind.image_keys
        }
        self.cameras = tuple(self._sizes)
        self.reset()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str = "cpu",
        allow_hub: bool = False,
        allow_code: bool = False,
    ) -> "SuccessModel":
        """Load the reward model in a folder, or that of a run of `lerobot-train`.

        The encoder or VLM that it names must be a local folder, unless `allow_hub` lets it be
        fetched, and without Python code, unless `allow_code` lets the folder's run. Raises
        CheckpointError if the folder is not a complete reward model of a known kind, and
        ConfigError for a device that is not there.
        """
        place = find_checkpoint(folder)
        where = f"success model {place}"
        with hub(allow_hub):
            config = load_config(place, allow_hub, allow_code)
            config.device = check_device(device)
            try:
                describe(config)
                network = _load_network(place, config)
                loaded = cls(place, config, network, _load_preprocessor(place, config))
                loaded._try()
            except CheckpointError as error:
                raise CheckpointError(f"{where}: {error}") from None
            except (ImportError, OSError, RuntimeError, LookupError, ValueError, TypeError,
                    AttributeError, SafetensorError) as error:  # fmt: skip
                raise CheckpointError(
                    f"{where}: expected a complete {config.type}, found: {one_line(error)}"
                ) from None
        return loaded

    def _try(self) -> None:
        """Ask it about black images: a model that does not fit its own configuration shows here."""
        self.reset("nothing")
        self.predict({c: np.zeros((*s, 3), dtype=np.uint8) for c, s in self._sizes.items()})
        self.reset()

    def check_cameras(self, cameras: Sequence[str]) -> None:
        """Raise CheckpointError unless a robot has the cameras that the model needs."""
        if set(self.cameras) - set(cameras):
            raise CheckpointError(
                f"success model {self.folder}: expected cameras {sorted(self.cameras)}, "
                f"found {sorted(cameras)}"
            )

    def reset(self, task: str = "") -> None:
        """Begin an episode; models that are VLMs judge by the task and the episode's frames."""
        self._task = task
        self._frames = {camera: deque(maxlen=self._kind.history or 1) for camera in self.cameras}

    @torch.inference_mode()
    def predict(self, images: dict[str, np.ndarray]) -> float:
        """Return the probability for images (H, W, 3) uint8 RGB by camera name.

        Raises CheckpointError if the model returns anything but a number from 0 to 1.
        """
        observation = {}
        for key, camera in zip(self._kind.image_keys, self.cameras, strict=True):
            frames = self._frames[camera]
            frames.append(to_tensor(resize(images[camera], *self._sizes[camera])))
            observation[key] = torch.stack(list(frames))
            if self._kind.history:
                observation[key] = observation[key].unsqueeze(0)
        if self._kind.history:
            observation["task"] = self._task
        batch = self._preprocess(observation)
        values = self._kind.read(self._model, batch).float().flatten().tolist()
        if len(values) != 1 or not 0.0 <= values[0] <= 1.0:
            raise CheckpointError(f"expected a number from 0 to 1, found {values}")
        return values[0]


def _load_network(folder: Path, config: RewardModelConfig) -> torch.nn.Module:
    # Of weights that are missing or too many LeRobot only logs, and of encoders that cameras
    # share it does so always.
    root = logging.getLogger()
    root.addFilter(_is_not_about_weights)
    try:
        network = make_reward_model(config).eval().requires_grad_(False)
    finally:
        root.removeFilter(_is_not_about_weights)
    if config.type in HAS_WEIGHTS:
        _check_weights(network, folder)
    return network


def _is_not_about_weights(record: logging.LogRecord) -> bool:
    return "when loading model" not in record.getMessage()


def _check_weights(network: torch.nn.Module, folder: Path) -> None:
    """Raise CheckpointError for weights that are missing or too many."""
    # safetensors' own strict loading refuses what LeRobot's training saves: of some buffers of
    # a shared encoder the file holds each name.
    with safe_open(folder / WEIGHTS, "pt") as file:
        found = set(file.keys())
    expected = network.state_dict()
    loaded = {expected[name].data_ptr() for name in found & expected.keys()}
    missing = [n for n, value in expected.items() if value.data_ptr() not in loaded]
    further = sorted(found - expected.keys())
    if missing or further:
        raise CheckpointError(
            f"{WEIGHTS}: expected the weights of its {CONFIG}, found "
            f"{len(missing)} missing {missing[:2]}, {len(further)} further {further[:2]}"
        )


def _load_preprocessor(folder: Path, config: RewardModelConfig) -> PolicyProcessorPipeline:
    if config.type != "reward_classifier":  # a VLM's is made from its configuration alone
        return make_reward_pre_post_processors(config)[0]
    file = folder / PREPROCESSOR
    if not file.is_file():
        return PolicyProcessorPipeline(steps=[DeviceProcessorStep(device=config.device)])
    for step in read_object(file, str(folder)).get("steps", []):
        # LeRobot imports and calls whatever class is named here.
        if not step.get("class", "lerobot.").startswith("lerobot."):
            raise CheckpointError(f"{file.name}: expected steps of LeRobot, found {step['class']}")
    # LeRobot's factory would make a new one, without the statistics of the training data.
    return PolicyProcessorPipeline.from_pretrained(
        folder,
        config_filename=PREPROCESSOR,
        overrides={"device_processor": {"device": config.device}},
    )


def check_device(name: str) -> str:
    """Return the name of a torch device; raise ConfigError if this machine has none such."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise ConfigError(
            f"device: expected a torch device of this machine, found {name!r}: {one_line(error)}"
        ) from None
    return name
