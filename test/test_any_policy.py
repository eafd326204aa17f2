"""Bases that are no SmolVLA: LeRobot's other policies with action chunks, tiny and random."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.pi0 import modeling_pi0, processor_pi0
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.processor import TokenizerProcessorStep
from transformers import SiglipVisionConfig

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.errors import CheckpointError
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.base import FrozenSmolVLA, load_base
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.policy.residual_policy import ResidualPolicy
from residual_smolvla_ros.policy.vision import read_token_shape

CAMERAS = ("front", "wrist")
FEATURES = {
    "input_features": {"observation.state": PolicyFeature(FeatureType.STATE, (6,))}
    | {f"observation.images.{c}": PolicyFeature(FeatureType.VISUAL, (3, 48, 48)) for c in CAMERAS},
    "output_features": {"action": PolicyFeature(FeatureType.ACTION, (6,))},
    "device": "cpu",
    "push_to_hub": False,
}
ACT = ACTConfig(
    **FEATURES,
    chunk_size=8,
    n_action_steps=6,
    dim_model=32,
    n_heads=2,
    dim_feedforward=32,
    n_encoder_layers=1,
    n_vae_encoder_layers=1,
    pretrained_backbone_weights=None,
)
DIFFUSION = DiffusionConfig(
    **FEATURES,
    horizon=8,
    n_action_steps=6,
    down_dims=(16, 32),
    n_groups=4,
    diffusion_step_embed_dim=16,
    spatial_softmax_num_keypoints=4,
    num_inference_steps=3,
    crop_shape=(40, 40),
    pretrained_backbone_weights=None,
)

PI0 = PI0Config(
    **FEATURES, chunk_size=8, n_action_steps=6, num_inference_steps=2, image_resolution=(28, 28)
)
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 14,
    "image_size": 28,
    "projection_dim": 32,
}


def save(config, folder: Path) -> Path:
    """Save a checkpoint as lerobot-train does, with random weights."""
    torch.manual_seed(0)
    get_policy_class(config.type)(config).save_pretrained(folder)
    six = torch.arange(6.0)
    statistics = {
        key: {"mean": six, "std": 10.0 + six, "min": six - 20.0, "max": six + 20.0}
        for key in ("observation.state", "action")
    }
    ones = torch.ones(3, 1, 1)
    for name in CAMERAS:
        statistics[f"observation.images.{name}"] = {"mean": 0.5 * ones, "std": 0.25 * ones}
    for processor in make_pre_post_processors(config, dataset_stats=statistics):
        processor.save_pretrained(folder)
    # As lerobot-train's: the backbone was downloaded once, and is not to be again.
    file = folder / "config.json"
    saved = json.loads(file.read_text())
    if "pretrained_backbone_weights" in saved:
        saved["pretrained_backbone_weights"] = "ResNet18_Weights.IMAGENET1K_V1"
    file.write_text(json.dumps(saved))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _small_pi0():
    """pi0 knows two sizes, of billions of parameters: let it be built with one small layer each."""
    whole, tokenizer = modeling_pi0.PaliGemmaForConditionalGenerationWithPiGemma, DEMO_CHECKPOINT

    def small(config):
        config.vision_config = SiglipVisionConfig(**VISION)
        config.projection_dim, config.text_config.vocab_size = 32, 4096
        return whole(config)

    def local_tokenizer(tokenizer_name, **settings):
        return TokenizerProcessorStep(tokenizer_name=str(tokenizer / "vlm"), **settings)

    with pytest.MonkeyPatch.context() as patch:
        sizes = modeling_pi0.GemmaConfig(32, 1, 32, 2, 1, 16)
        patch.setattr(modeling_pi0, "get_gemma_config", lambda variant: sizes)
        patch.setattr(modeling_pi0, whole.__name__, small)
        patch.setattr(processor_pi0, "TokenizerProcessorStep", local_tokenizer)
        yield


@pytest.fixture(scope="module", params=[ACT, DIFFUSION, PI0], ids=lambda config: config.type)
def checkpoint(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param.type)
    if request.param is PI0:
        shutil.copytree(DEMO_CHECKPOINT / "vlm", folder / "vlm")
    return save(request.param, folder)


def see(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 255, (48, 48, 3), dtype=np.uint8) for name in CAMERAS}


def test_its_plan_follows_from_observation_and_seed_and_leaves_the_global_generator_alone(
    checkpoint,
):
    base = load_base(checkpoint)
    assert (base.chunk_size, base.cameras, base.token_shape) == (6, CAMERAS, None)
    before = torch.get_rng_state()
    plans = [base.plan(see(0), np.ones(6), "", base.make_noise(7, 0)) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert plans[0].shape == (6, 6)
    np.testing.assert_array_equal(*plans)
    assert not np.array_equal(plans[0], base.plan(see(1), np.ones(6), "", base.make_noise(7, 0)))
    draws = base.plan(see(0), np.ones(6), "", base.make_noise(7, 1))
    assert np.array_equal(plans[0], draws) == (base.config.type == "act")


def test_it_plans_as_lerobots_own_first_step_does(checkpoint):
    """LeRobot's select_action fills a history with the first observation, and so do we."""
    base, images = load_base(checkpoint), see(0)
    noise = base.make_noise(7, 0)
    policy = base._policy
    policy.reset()
    batch = base._batch([images], np.ones((1, 6)), "")
    torch.manual_seed(int(noise))
    with torch.no_grad():
        actions = [policy.select_action(dict(batch))[0].numpy() for _ in range(base.chunk_size)]
    policy.reset()
    np.testing.assert_array_equal(base.plan(images, np.ones(6), "", noise), np.stack(actions))


def test_several_robots_get_the_plans_that_each_would_get(checkpoint):
    base, states = load_base(checkpoint), np.stack([np.zeros(6), np.ones(6)])
    noises = [base.make_noise(1, 0), base.make_noise(2, 0)]
    together = base.plan_batch([see(0), see(1)], states, ["a", "b"], torch.cat(noises))
    for row in range(2):
        alone = base.plan(see(row), states[row], "ab"[row], noises[row])
        np.testing.assert_array_equal(together[row], alone)


def test_a_residual_corrects_its_actions(checkpoint, kinematics):
    base = load_base(checkpoint)
    config = ResidualConfig.from_names(["state", "base_action", "chunk_position"], 6)
    policy = ResidualPolicy(base, "", kinematics)
    policy.load_weights(config, ResidualActorCritic(config).state_dict(), version=0)
    policy.begin_episode(seed=3, max_steps=20)
    policy.plan(see(0), np.zeros(6))
    free = policy.step(np.zeros(6), residual=np.zeros(5))
    np.testing.assert_array_equal(free.command, base.unnormalise_action(free.base))
    policy.begin_episode(seed=3, max_steps=20)
    policy.plan(see(0), np.zeros(6))
    pushed = policy.step(np.zeros(6), residual=np.ones(5))
    assert np.abs(pushed.command - free.command).max() > 1.0


def test_vision_tokens_are_asked_of_a_smolvla_only(checkpoint):
    assert read_token_shape(checkpoint) is None
    config = ResidualConfig({"state": 6, "vision": 4}, action_size=6, action_space="joint")
    policy = ResidualPolicy(load_base(checkpoint))
    with pytest.raises(ValueError, match=r"expected a SmolVLA as base .* vision, found"):
        policy.load_weights(config, ResidualActorCritic(config).state_dict(), version=0)
    with pytest.raises(CheckpointError, match="expected policy type smolvla, found"):
        FrozenSmolVLA(checkpoint)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"temporal_ensemble_coeff": 0.01, "n_action_steps": 1}, "chunks of absolute actions"),
        ({"chunk_size": 7}, "a complete LeRobot policy checkpoint"),
        (
            {"input_features": {"observation.environment_state": {"type": "ENV", "shape": [3]}}},
            "an input feature of type STATE|inputs observation.state",
        ),
        ({"type": "sarm"}, "a config.json of a LeRobot policy"),
        ({"type": "act", "n_obs_steps": 1, "kl_weight": None, "x": 1}, "a config.json of"),
    ],
)
def test_what_is_no_chunk_policy_is_refused_in_one_line(changes, expected, tmp_path):
    file = save(ACT, tmp_path) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(
        CheckpointError, match=f"^base checkpoint {tmp_path}: expected ({expected})"
    ) as e:
        load_base(tmp_path)
    assert len(str(e.value).splitlines()) == 1


def test_weights_that_lerobot_would_not_miss_are_missed(tmp_path):
    """A cut off file: LeRobot's pi0 prints a line and acts with random weights."""
    shutil.copytree(DEMO_CHECKPOINT / "vlm", tmp_path / "vlm")
    file = save(PI0, tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"expected weights of its config\.json, found"):
        load_base(tmp_path)
