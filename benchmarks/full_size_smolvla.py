"""A SmolVLA of full size with random weights, made from its configuration, without a hub."""

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
JOINTS = 6
IMAGE = (480, 640, 3)

# What SmolVLM2-500M-Video-Instruct's config.json on the hub says of the model's shapes.
FULL = {
    "model_type": "smolvlm",
    "scale_factor": 4,
    "image_token_id": 49190,
    "tie_word_embeddings": False,
    "vision_config": {
        "model_type": "smolvlm_vision",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 512,
        "patch_size": 16,
    },
    "text_config": {
        "model_type": "llama",
        "vocab_size": 49280,
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
        "head_dim": 64,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000,
        "dtype": "bfloat16",
    },
}
SMALL = FULL | {
    "image_token_id": 4,
    "vision_config": FULL["vision_config"]
    | {
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 128,
    },
    "text_config": FULL["text_config"]
    | {
        "vocab_size": 281,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
    },
}


def make_checkpoint(folder: Path, small: bool) -> None:
    """Write a checkpoint as lerobot-train does, with random weights."""
    vlm, shapes = folder / "vlm", SMALL if small else FULL
    # The tokens of another tokenizer are as good here.
    shutil.copytree(DEMO_CHECKPOINT / "vlm", vlm)
    (vlm / "config.json").write_text(json.dumps(shapes))
    images = {
        f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, *IMAGE[:2]))
        for name in CAMERAS
    }
    side = shapes["vision_config"]["image_size"]
    config = SmolVLAConfig(
        vlm_model_name=str(vlm),
        num_vlm_layers=2 if small else 16,
        resize_imgs_with_padding=(side, side),
        pad_language_to="max_length",
        device="cpu",
        push_to_hub=False,
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (JOINTS,)), **images},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (JOINTS,))},
    )
    torch.manual_seed(0)
    SmolVLAPolicy(config).save_pretrained(folder)
    stats = {
        name: {"mean": torch.zeros(JOINTS), "std": torch.ones(JOINTS)}
        for name in ("observation.state", "action")
    }
    for processor in make_pre_post_processors(config, dataset_stats=stats):
        processor.save_pretrained(folder)
