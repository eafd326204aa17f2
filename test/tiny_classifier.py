"""Tiny reward models, and frames of a red square that is in its box or not."""

import contextlib
import io
import json
import logging
from functools import cache
from pathlib import Path

import numpy as np

CAMERAS = ("front", "wrist")
SIZE = 128


def scene(done: bool, rng: np.random.Generator, height: int = SIZE, width: int = SIZE):
    """Return an image (height, width, 3) uint8: a red square inside a blue box if done."""
    unit = height // 16
    image = rng.integers(80, 110, (height, width, 3), dtype=np.uint8)
    image[4 * unit : 12 * unit, 4 * unit : 12 * unit] = (40, 40, 200)
    row, column = rng.integers(0, unit, 2) + ((6 * unit, 6 * unit) if done else (unit, 12 * unit))
    image[row : row + 3 * unit, column : column + 3 * unit] = (230, 30, 30)
    return image


def scenes(done: bool, seed: int, height: int = SIZE, width: int = SIZE) -> dict[str, np.ndarray]:
    """Return an image of each camera."""
    rng = np.random.default_rng(seed)
    return {camera: scene(done, rng, height, width) for camera in CAMERAS}


def save_encoder(folder: Path) -> Path:
    """Save a ResNet of random weights as transformers does: 128x128 becomes 4x4."""
    import torch
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic"
    )
    ResNetModel(config).save_pretrained(folder)
    return folder


def save_frames(folder: Path, successes: int = 4, failures: int = 2, length: int = 12) -> Path:
    """Save episodes as `frame_collector` does; of a success the last third shows it."""
    from residual_smolvla_ros.success.frames import FrameDataset

    dataset = FrameDataset(folder, CAMERAS, 5.0, (SIZE, SIZE), "Put it into the box")
    for episode in range(successes + failures):
        rewards = np.zeros(length)
        rewards[2 * length // 3 :] = episode < successes
        images = [scenes(bool(done), 1000 * episode + index) for index, done in enumerate(rewards)]
        dataset.add(images, rewards)
    return folder


@cache
def train(base: Path) -> tuple[Path, Path, str]:
    """Train once for all tests below a folder; return dataset, run and what was printed."""
    from residual_smolvla_ros.success import training

    base.mkdir(exist_ok=True)
    data, run = save_frames(base / "data"), base / "run"
    arguments = {
        "data": str(data),
        "encoder": str(save_encoder(base / "encoder")),
        "output": str(run),
        "steps": "60",
        "batch_size": "8",
        "learning_rate": "0.003",
    }
    handlers, level = logging.root.handlers[:], logging.root.level
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert training.run(arguments) == 0
    # LeRobot's training sets up the logging of its process.
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    return data, run, printed.getvalue()


def save_topreward(folder: Path) -> Path:
    """Save a TOPReward checkpoint whose VLM is a Qwen3-VL of random weights, spelling in bytes."""
    import torch
    from lerobot.rewards import TOPRewardConfig
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelling = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    spelling.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=spelling,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=marks,
    )
    start, end, image, video = tokenizer.convert_tokens_to_ids(marks)
    template = (
        "{% for part in messages[0]['content'] %}{% if part['type'] == 'video' %}"
        "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}<|im_end|>"
    )
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(patch_size=16, merge_size=2),
        tokenizer,
        Qwen3VLVideoProcessor(),
        chat_template=template,
    )
    processor.save_pretrained(folder / "vlm")
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 32}
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2]}
    text = size | {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "rope_scaling": rope,
    }
    vision = size | {
        "depth": 1,
        "num_heads": 2,
        "out_hidden_size": 32,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder / "vlm")
    key = "observation.images.front"
    TOPRewardConfig(
        device="cpu", vlm_name="vlm", image_key=key, torch_dtype="float32", max_frames=3
    )._save_pretrained(folder)
    return folder


def edit(file: Path, **changes) -> None:
    """Change fields of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def save_reward_model(config, folder: Path) -> None:
    """Save a reward model of random weights."""
    from lerobot.rewards.factory import get_reward_model_class

    get_reward_model_class(config.type)(config).save_pretrained(folder)
