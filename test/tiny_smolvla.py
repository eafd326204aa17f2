"""A SmolVLA of full-size settings (three cameras, 512 px, 32 joints padded), small and random."""

import json
import shutil
from pathlib import Path

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT

CAMERAS = ("camera1", "camera2", "camera3")


def make_checkpoint(folder: Path) -> Path:
    """Write a checkpoint as lerobot-train saves it, with few and random weights."""
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
