"""Reward models from a folder: what they say, and what is refused before it can do harm."""

import json
import shutil

import numpy as np
import pytest
import tiny_classifier
import torch
from lerobot.rewards import RobometerConfig, SARMConfig
from lerobot.utils.import_utils import is_package_available
from safetensors.torch import load_file, save_file
from tiny_classifier import edit, scenes

from residual_smolvla_ros.errors import CheckpointError, ConfigError
from residual_smolvla_ros.success.model import SuccessModel


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of `train-success`."""
    return tiny_classifier.train(tmp_path_factory.getbasetemp() / "tiny_classifier")[1]


@pytest.fixture(scope="module")
def model(run):
    return SuccessModel.load(run)


@pytest.fixture
def folder(run, tmp_path):
    """A checkpoint's folder for a test to damage."""
    checkpoint = run / "checkpoints" / "last" / "pretrained_model"
    return shutil.copytree(checkpoint.resolve(), tmp_path / "model")


def refusal(folder, **settings) -> str:
    """Return the one line that a folder is refused with."""
    with pytest.raises(CheckpointError) as caught:
        SuccessModel.load(folder, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_fresh_scenes_are_told_apart(model):
    done = [model.predict(scenes(True, seed)) for seed in range(9000, 9020)]
    not_done = [model.predict(scenes(False, seed)) for seed in range(9000, 9020)]
    assert min(done) > 0.5
    assert max(not_done) < 0.5


def test_a_camera_of_another_resolution_makes_no_difference(model):
    """The robot's cameras send more pixels than the frames that the model was trained on have."""
    for done in (True, False):
        images = scenes(done, 77)
        large = {name: image.repeat(5, 0).repeat(5, 1) for name, image in images.items()}
        assert model.predict(large) == pytest.approx(model.predict(images), abs=1e-3)


def test_images_are_normalised_as_they_were_in_training(model, folder):
    """LeRobot's own processor for this leaves the training's normalisation out."""
    (folder / "classifier_preprocessor.json").unlink()
    bare = SuccessModel.load(folder)
    assert model.normalised
    assert not bare.normalised
    assert bare.predict(scenes(True, 77)) != pytest.approx(model.predict(scenes(True, 77)))


def test_a_moved_folder_brings_its_encoder_along(model, folder):
    """`model_name` is relative to the checkpoint, wherever the process was started."""
    assert json.loads((folder / "config.json").read_text())["model_name"] == "encoder"
    images = scenes(True, 77)
    assert SuccessModel.load(folder).predict(images) == model.predict(images)


def test_the_cameras_that_a_robot_lacks_are_named(model):
    model.check_cameras(["wrist", "front", "side"])
    with pytest.raises(CheckpointError, match=r"expected cameras \['front', 'wrist'\], found"):
        model.check_cameras(["front", "top"])


def test_a_folder_that_is_none_is_refused(tmp_path):
    assert "success model: expected a folder, found none" in refusal("")
    assert "expected a folder with config.json, found no such folder" in refusal(tmp_path / "no")
    assert "expected a folder with config.json, found no config.json in it" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "smolvla"}, "reward_classifier, robometer, topreward, found 'smolvla'"),
        ({"type": None}, "reward_classifier, robometer, topreward, found None"),
        ({"num_classes": 3}, "num_classes: expected 2, success and none, found 3"),
        ({"hidden_dim": "wide"}, "expected a config.json of reward_classifier, found: "),
        ({"layers": 3}, "expected a config.json of reward_classifier, found: "),
        ({"hidden_dim": 8}, "expected a complete reward_classifier, found: "),
        ({"input_features": {}}, "input_features: expected observation.images.<camera>, found []"),
        ({"num_cameras": 1}, "expected a complete reward_classifier, found: "),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(folder, changes, message):
    edit(folder / "config.json", **changes)
    assert message in refusal(folder)


def test_a_damaged_configuration_is_refused(folder):
    (folder / "config.json").write_text('{"type": "reward_cl')
    assert "expected JSON in config.json, found: Unterminated string" in refusal(folder)


def test_images_of_a_size_that_the_encoder_does_not_take_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    for feature in config["input_features"].values():
        feature["shape"] = [3, 224, 224]
    (folder / "config.json").write_text(json.dumps(config))
    assert "expected a complete reward_classifier, found: The size of tensor" in refusal(folder)


def change_weights(folder, change) -> None:
    """Rewrite the weights; `change` alters the dictionary of tensors."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_weights_that_lack_something_are_refused(folder):
    """LeRobot only logs it, and goes on with random numbers in their place."""
    (folder / "model.safetensors").rename(folder / "weights")
    assert "expected model.safetensors, found none" in refusal(folder)
    (folder / "weights").rename(folder / "model.safetensors")
    change_weights(folder, lambda weights: weights.pop("classifier_head.0.bias"))
    assert "found 1 missing ['classifier_head.0.bias'], 0 further" in refusal(folder)


def test_weights_that_the_model_does_not_have_are_refused(folder):
    change_weights(folder, lambda weights: weights.update(extra=torch.zeros(1)))
    assert "found 0 missing [], 1 further ['extra']" in refusal(folder)


def test_weights_cut_short_are_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "expected a complete reward_classifier, found: " in refusal(folder)


def test_weights_that_are_no_numbers_are_refused(folder):
    change_weights(folder, lambda weights: weights["classifier_head.4.bias"].fill_(np.nan))
    assert "expected a number from 0 to 1, found [nan]" in refusal(folder)


def test_an_encoder_of_the_hub_is_refused_unless_it_is_allowed(folder):
    edit(folder / "config.json", model_name="lerobot/resnet10")
    message = refusal(folder)
    assert "model_name: expected a folder" in message
    assert "found 'lerobot/resnet10'; allow_hub permits to fetch it" in message
    # The tests' own process is offline.
    assert "expected a complete reward_classifier, found: " in refusal(folder, allow_hub=True)


def test_code_of_another_repository_is_refused_even_where_code_may_run(folder):
    """Even with a local folder transformers would fetch and run it."""
    edit(folder / "encoder" / "config.json", auto_map={"AutoModel": "someone/else--modeling.Net"})
    for settings in ({}, {"allow_code": True}):
        message = refusal(folder, **settings)
        assert "found auto_map 'someone/else--modeling.Net'; allow_hub permits" in message


def test_code_in_the_encoders_folder_does_not_run_unless_it_is_allowed(folder, tmp_path):
    mark = tmp_path / "ran"
    (folder / "encoder" / "own.py").write_text(
        f"from transformers import ResNetModel as Net\nopen({str(mark)!r}, 'w').close()\n"
    )
    edit(folder / "encoder" / "config.json", auto_map={"AutoModel": "own.Net"})
    assert "expected no code, found auto_map 'own.Net'; allow_code permits" in refusal(folder)
    assert not mark.exists()
    SuccessModel.load(folder, allow_code=True)
    assert mark.exists()


def test_pickled_weights_are_not_read(folder):
    file = folder / "encoder" / "model.safetensors"
    file.rename(file.with_name("pytorch_model.bin"))
    assert "expected weights in safetensors, found none in" in refusal(folder)


def test_a_preprocessor_may_only_name_classes_of_lerobot(folder):
    """LeRobot imports and calls what stands there."""
    step = {"class": "subprocess.Popen", "config": {"args": ["true"]}}
    edit(folder / "classifier_preprocessor.json", steps=[step])
    assert "expected steps of LeRobot, found subprocess.Popen" in refusal(folder)


def test_a_device_that_is_not_there_is_refused(folder):
    with pytest.raises(ConfigError, match="device: expected a torch device of this machine"):
        SuccessModel.load(folder, device="abacus")


def test_topreward_judges_the_episode_so_far_and_its_task(tmp_path):
    model = SuccessModel.load(tiny_classifier.save_topreward(tmp_path))
    assert model.cameras == ("front",)
    assert model.meaning == "probability that its VLM says True of the task, uncalibrated"
    model.reset("Lift the red cube")
    said = [model.predict(scenes(done, 1)) for done in (False, True, True)]
    assert len(set(said)) == 3
    model.reset("Lift the red cube")
    assert model.predict(scenes(False, 1)) == said[0]
    model.reset("Push the green ball")
    assert model.predict(scenes(False, 1)) != said[0]


@pytest.mark.skipif(is_package_available("qwen_vl_utils"), reason="needs it to be missing")
def test_a_missing_package_is_named_with_its_extra(tmp_path):
    tiny_classifier.save_topreward(tmp_path)
    vlm = json.loads((tmp_path / "vlm" / "config.json").read_text())
    config = RobometerConfig(
        device="cpu", base_model_id="vlm", vlm_config=vlm, torch_dtype="float32",
        pretrained_path=str(tmp_path),
    )  # fmt: skip
    tiny_classifier.save_reward_model(config, tmp_path)
    assert "pip install 'lerobot[robometer]'" in refusal(tmp_path)


def test_sarm_is_refused_since_it_looks_ahead(tmp_path):
    SARMConfig(device="cpu")._save_pretrained(tmp_path)
    assert "found sarm, which needs those that follow too" in refusal(tmp_path)
