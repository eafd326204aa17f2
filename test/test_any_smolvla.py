"""A SmolVLA of full-size settings (three cameras, 512 px, 32 joints padded) loads by its path."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.policy.base import FrozenSmolVLA

CAMERAS = ("camera1", "camera2", "camera3")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint as lerobot-train saves it, with few and random weights."""
    folder = tmp_path_factory.mktemp("pretrained_model")
    shutil.copytree(DEMO_CHECKPOINT / "vlm", folder / "vlm")
    vlm = json.loads((folder / "vlm" / "config.json").read_text())
    vlm["vision_config"]["image_size"] = 512
    (folder / "vlm" / "config.json").write_text(json.dumps(vlm))
    images = {
        f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, 480, 640))
        for name in CAMERAS
    }
    config = SmolVLAConfig(
        vlm_model_name=str(folder / "vlm"),
        num_vlm_layers=2,
        device="cpu",
        push_to_hub=False,
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (6,)), **images},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
    )
    torch.manual_seed(0)
    SmolVLAPolicy(config).save_pretrained(folder)
    statistics = {
        key: {"mean": torch.arange(6.0), "std": 10.0 + torch.arange(6.0)}
        for key in ("observation.state", "action")
    }
    for processor in make_pre_post_processors(config, dataset_stats=statistics):
        processor.save_pretrained(folder)
    return folder


def test_three_cameras_at_512_px_plan_a_chunk_after_a_move(checkpoint, tmp_path):
    moved = shutil.copytree(checkpoint, tmp_path / "elsewhere")
    shutil.rmtree(checkpoint)
    base = FrozenSmolVLA(moved)
    base.check_robot(list(CAMERAS), ["joint"] * 6)
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 255, (480, 640, 3), dtype=np.uint8) for name in CAMERAS}
    chunk = base.plan(images, np.zeros(6), "Grab the cube", base.make_noise(0))
    assert chunk.shape == (50, 6)
    assert np.isfinite(chunk).all()
    np.testing.assert_allclose(base.unnormalise_action(np.zeros(6)), np.arange(6.0), atol=1e-5)
    assert base.encode([images])[0].shape == base.token_shape == (3, 256, 128)
