"""The tokens of SmolVLA's vision encoder as a feature: their shape, and how they are reduced."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch.nn import functional

from residual_smolvla_ros.errors import CheckpointError
from residual_smolvla_ros.policy.features import ResidualConfig

_VLM = "model.vlm_with_expert.vlm.model"
_PATCHES = f"{_VLM}.vision_model.embeddings.patch_embedding.weight"
_CONNECTOR = f"{_VLM}.connector.modality_projection.proj.weight"
_CAMERA = "observation.images."
_PROJECTION_SEED = 0


def read_token_shape(checkpoint: str | Path) -> tuple[int, int, int] | None:
    """Return cameras, places and channels of a SmolVLA checkpoint's tokens, from its files alone.

    None for another policy, which has no tokens to see. Raises CheckpointError where the files do
    not tell.
    """
    folder = Path(checkpoint).expanduser()
    try:
        config = json.loads((folder / "config.json").read_text())
        if config.get("type", "smolvla") != "smolvla":
            return None
        with safe_open(folder / "model.safetensors", "numpy") as weights:
            width, _, patch, _ = weights.get_slice(_PATCHES).get_shape()
            channels, joined = weights.get_slice(_CONNECTOR).get_shape()
        cameras = [f for name, f in config["input_features"].items() if name.startswith(_CAMERA)]
        pixels = config["resize_imgs_with_padding"] or cameras[0]["shape"][1:]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(
            f"base checkpoint {folder}: expected a complete SmolVLA checkpoint, found: "
            f"{' '.join(str(error).split())}"
        ) from None
    # The connector joins the patches of a square into one token.
    patches = math.prod(size // patch for size in pixels)
    return len(cameras), patches * width // joined, channels


def token_age(image_stamps: dict[str, int], stamp: int, period_ns: int) -> tuple[int, int]:
    """Return how old tokens are at the state `stamp`: since when in ns, and in control steps.

    An image may be younger than the state that it serves.
    """
    since = min(*image_stamps.values(), stamp)
    return since, round((stamp - since) / period_ns)


class TokenReducer:
    """Turn tokens (cameras, places, channels) into the feature `vision`, as configured.

    Keeps `vision_cameras`, averages the places to `vision_grid` squared, and projects the channels
    of each place onto `vision_channels` orthogonal directions, the same ones in every run.

    Raises ValueError where the configuration asks for cameras that are not in `cameras`, or for
    more than the tokens have.
    """

    def __init__(self, config: ResidualConfig, cameras: tuple[str, ...]):
        missing = [name for name in config.vision_cameras if name not in cameras]
        if missing:
            raise ValueError(
                f"vision_cameras: expected cameras out of {', '.join(cameras)}, "
                f"found {', '.join(missing)}"
            )
        wanted = config.vision_cameras or cameras
        self._rows = [index for index, name in enumerate(cameras) if name in wanted]
        self._grid = config.vision_grid
        self._channels = config.vision_channels
        self._projection: np.ndarray | None = None

    def reduce(self, tokens: np.ndarray) -> np.ndarray:
        """Return the feature (size,), float32."""
        kept = np.asarray(tokens, dtype=np.float32)[self._rows]
        if self._grid:
            kept = _pool(kept, self._grid)
        if self._channels:
            if self._projection is None:
                self._projection = _orthogonal(kept.shape[-1], self._channels)
            kept = kept @ self._projection
        return kept.ravel()


def _pool(tokens: np.ndarray, grid: int) -> np.ndarray:
    """Average tokens (cameras, places, channels) of square images to (cameras, grid * grid, _)."""
    cameras, places, channels = tokens.shape
    side = math.isqrt(places)
    square = torch.from_numpy(tokens).reshape(cameras, side, side, channels).permute(0, 3, 1, 2)
    pooled = functional.adaptive_avg_pool2d(square, grid)
    return pooled.permute(0, 2, 3, 1).reshape(cameras, grid * grid, channels).numpy()


def _orthogonal(channels: int, kept: int) -> np.ndarray:
    """Return a random matrix (channels, kept) of orthonormal columns, scaled to keep variance."""
    normal = np.random.default_rng(_PROJECTION_SEED).standard_normal((channels, kept))
    columns, triangle = np.linalg.qr(normal)
    # LAPACKs differ in the sign of a column.
    columns *= np.sign(np.diag(triangle)) * math.sqrt(channels / kept)
    return columns.astype(np.float32)
