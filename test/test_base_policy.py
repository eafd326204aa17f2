"""The frozen base against LeRobot's own policy and processors, and checkpoints that are none."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.errors import CheckpointError, ConfigError
from residual_smolvla_ros.policy.base import FrozenSmolVLA
from residual_smolvla_ros.robots.units import JOINT_NAMES

TASK = "Lift the red cube"
STATE = np.array([5.0, -60.0, 55.0, 60.0, -10.0, 20.0])


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Path:
    """A copy of the checkpoint, from a working folder that has nothing of it."""
    folder = tmp_path / "moved" / "elsewhere"
    shutil.copytree(DEMO_CHECKPOINT, folder)
    monkeypatch.chdir(tmp_path)
    return folder


def make_images(base: FrozenSmolVLA, shape=(96, 96, 3)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, shape, dtype=np.uint8) for name in base.cameras}


def make_plan(base: FrozenSmolVLA, shape=(96, 96, 3)) -> np.ndarray:
    return base.plan(make_images(base, shape), STATE, TASK, base.make_noise(1, 0))


def edit(file: Path, change) -> None:
    """Rewrite a JSON file by `change`, which alters its content in place."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def lerobot_processors(folder: Path):
    vlm = {"tokenizer_processor": {"tokenizer_name": str(folder / "vlm")}}
    config = PreTrainedConfig.from_pretrained(folder)
    return make_pre_post_processors(config, pretrained_path=str(folder), preprocessor_overrides=vlm)


def use_normalisation(folder: Path, mode: str) -> None:
    """Let the processors of a checkpoint normalise state and action in another way."""
    for name, step in (("policy_preprocessor.json", 5), ("policy_postprocessor.json", 0)):
        edit(
            folder / name,
            lambda content, step=step: content["steps"][step]["config"]["norm_map"].update(
                STATE=mode, ACTION=mode
            ),
        )


# -- what it computes -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["MEAN_STD", "MIN_MAX", "IDENTITY"])
def test_normalisation_is_lerobots_own(copy, mode):
    use_normalisation(copy, mode)
    base = FrozenSmolVLA(copy)
    preprocess, postprocess = lerobot_processors(copy)
    rng = np.random.default_rng(0)
    for _ in range(20):
        state = rng.uniform(-100, 100, 6).astype(np.float32)
        batch = preprocess({"observation.state": torch.from_numpy(state), "task": TASK})
        expected = batch["observation.state"][0].numpy()
        np.testing.assert_allclose(base.normalise_state(state), expected, rtol=1e-4, atol=1e-4)
        action = rng.normal(size=6).astype(np.float32)
        expected = postprocess(torch.from_numpy(action[None]))[0].numpy()
        found = base.unnormalise_action(action)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_one_unit_of_action_is_a_standard_deviation(base):
    zero, one = base.unnormalise_action(np.zeros(6)), base.unnormalise_action(np.ones(6))
    np.testing.assert_allclose(base.action_std, one - zero, rtol=1e-5)
    assert (base.action_std > 0).all()


def test_a_plan_is_what_lerobots_own_policy_gives(base):
    vlm = str(DEMO_CHECKPOINT / "vlm")
    config = PreTrainedConfig.from_pretrained(DEMO_CHECKPOINT)
    config.vlm_model_name, config.device = vlm, "cpu"
    policy = SmolVLAPolicy.from_pretrained(DEMO_CHECKPOINT, config=config)
    preprocess, postprocess = lerobot_processors(DEMO_CHECKPOINT)
    observation = {
        f"observation.images.{name}": torch.from_numpy(image).permute(2, 0, 1) / 255
        for name, image in make_images(base).items()
    }
    observation |= {"observation.state": torch.tensor(STATE, dtype=torch.float32), "task": TASK}
    noise = base.make_noise(1, 0)
    with torch.no_grad():
        expected = policy.predict_action_chunk(preprocess(observation), noise=noise)
    found = make_plan(base)
    np.testing.assert_array_equal(found, expected[0].numpy())
    commands = np.stack([base.unnormalise_action(action) for action in found])
    np.testing.assert_allclose(commands, postprocess(expected)[0].numpy(), rtol=1e-4, atol=1e-4)


def test_a_plan_is_a_function_of_images_state_task_and_noise(base):
    images, noise = make_images(base), base.make_noise(1, 0)
    first = base.plan(images, STATE, TASK, noise)
    assert first.shape == (base.chunk_size, base.action_size)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(base.plan(images, STATE, TASK, noise), first)
    dark = {name: np.zeros_like(image) for name, image in images.items()}
    others = (
        base.plan(dark, STATE, TASK, noise),
        base.plan(images, STATE + 10, TASK, noise),
        base.plan(images, STATE, "Push the blue ball", noise),
        base.plan(images, STATE, TASK, base.make_noise(1, 1)),
    )
    for other in others:
        assert not np.array_equal(other, first)


def test_noise_is_named_by_its_integers_and_leaves_the_global_generator_alone(base):
    before = torch.get_rng_state()
    large = 10_000_000 * 1_001 + 3
    assert torch.equal(base.make_noise(large, 2), base.make_noise(large, 2))
    names = [(1, 2), (2, 1), (0, 0), (0, 1), (large, 2), (large + 1, 2)]
    noises = [base.make_noise(*name) for name in names]
    assert len({noise.numpy().tobytes() for noise in noises}) == len(names)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_weights_cannot_be_trained(base):
    policy = base._policy
    assert not policy.training
    assert not any(parameter.requires_grad for parameter in policy.parameters())


# -- where it is loaded from ----------------------------------------------------------------


def test_a_moved_checkpoint_gives_the_same_plan_to_the_bit(base, copy):
    moved = FrozenSmolVLA(copy)
    np.testing.assert_array_equal(make_plan(moved), make_plan(base))
    assert str(DEMO_CHECKPOINT) not in str(vars(moved.config))


def test_three_cameras_of_full_size_and_a_short_chunk_need_no_other_code(copy):
    """As lerobot-train leaves them: more cameras, 640x480, and only a part of a chunk played."""

    def change(config: dict) -> None:
        cameras = {f"observation.images.{n}": [3, 480, 640] for n in ("top", "wrist", "front")}
        for name, shape in cameras.items():
            config["input_features"][name] = {"type": "VISUAL", "shape": shape}
        config["n_action_steps"] = 7

    edit(copy / "config.json", change)
    base = FrozenSmolVLA(copy)
    assert base.cameras == ("front", "top", "wrist")
    assert base.chunk_size == 7
    plan = make_plan(base, shape=(480, 640, 3))
    assert plan.shape == (7, 6)
    assert np.isfinite(plan).all()


def test_a_robot_with_the_checkpoints_cameras_and_more_is_taken(base):
    base.check_robot(["extra", *base.cameras], list(JOINT_NAMES))


def test_a_missing_camera_is_refused_by_its_name(base):
    with pytest.raises(CheckpointError, match=r"expected cameras \['front', 'wrist'\]") as error:
        base.check_robot(["front", "overhead"], list(JOINT_NAMES))
    assert "found ['front', 'overhead']" in str(error.value)


def test_another_number_of_joints_is_refused(base):
    with pytest.raises(CheckpointError, match=r"expected a state of 6 joints, found 2: \['a', 'b"):
        base.check_robot(list(base.cameras), ["a", "b"])


# -- what is refused ------------------------------------------------------------------------


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"expected a folder with config\.json, found no such"
    ):
        FrozenSmolVLA(tmp_path / "none")


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"found no config\.json in it"):
        FrozenSmolVLA(tmp_path)


def test_a_policy_that_is_no_smolvla_is_refused_by_its_type(tmp_path):
    ACTConfig(device="cpu").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="expected policy type smolvla, found act"):
        FrozenSmolVLA(tmp_path)


def truncate(name: str):
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def configure(**changes):
    return lambda folder: edit(folder / "config.json", lambda config: config.update(changes))


DAMAGES = {
    "weights truncated": truncate("model.safetensors"),
    "weights missing": remove("model.safetensors"),
    "weights of another size": configure(num_vlm_layers=1),
    "statistics truncated": truncate(
        "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
    ),
    "statistics missing": remove("policy_preprocessor_step_5_normalizer_processor.safetensors"),
    "processor truncated": truncate("policy_preprocessor.json"),
    "processor missing": remove("policy_postprocessor.json"),
    "tokenizer truncated": truncate("vlm/tokenizer.json"),
    "config truncated": truncate("config.json"),
    "config of a type unknown to LeRobot": configure(type="some_vla"),
    "config with an unknown setting": configure(not_a_setting=1),
    "no camera": configure(input_features={"observation.state": {"type": "STATE", "shape": [6]}}),
    "no action": configure(output_features={}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_refused_in_one_line_that_names_the_folder(copy, damage):
    damage(copy)
    with pytest.raises(CheckpointError) as error:
        FrozenSmolVLA(copy)
    line = str(error.value)
    assert line.startswith(f"base checkpoint {copy}: expected ")
    assert len(line.splitlines()) == 1
    assert line.partition(", found")[2].strip(": "), "expected to read what was found"


def test_weights_of_another_size_are_told_by_what_differs(copy):
    configure(num_vlm_layers=1)(copy)
    with pytest.raises(CheckpointError) as error:
        FrozenSmolVLA(copy)
    # torch's first line says only that there were errors.
    assert "layers.1." in str(error.value).partition(", found: ")[2]


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(ConfigError, match=f"device: expected .* found '{device}'"):
        FrozenSmolVLA(DEMO_CHECKPOINT, device)
