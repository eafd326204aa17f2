"""`train-success`: LeRobot's training, the checkpoint that it leaves, and its test."""

import json

import numpy as np
import pytest
import tiny_classifier
from tiny_classifier import edit, save_encoder, save_frames

from residual_smolvla_ros.arguments import ArgumentError
from residual_smolvla_ros.success import report, trainer, training
from residual_smolvla_ros.success.report import HeldOut


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A dataset, a run of `train-success` on it, and what that printed."""
    return tiny_classifier.train(tmp_path_factory.getbasetemp() / "tiny_classifier")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A dataset and an encoder that no training has used."""
    folder = tmp_path_factory.mktemp("parts")
    return {
        "data": save_frames(folder / "data", successes=2, failures=0, length=6),
        "encoder": save_encoder(folder / "encoder"),
    }


def test_the_checkpoint_and_the_test_on_episodes_not_trained_on_are_told(trained):
    data, run, printed = trained
    held_out = json.loads((run / "held_out.json").read_text())
    config = json.loads((run / "checkpoints/last/pretrained_model/train_config.json").read_text())
    episodes = config["dataset"]["episodes"]
    assert sorted(episodes + held_out["episodes"]) == list(range(6))
    assert f"{data}: 4 episodes to train on, 2 held out; 12 of 48 training frames" in printed
    assert "frames told right          1.000 of 24; always the commoner answer: 0.833" in printed
    assert "successes called           1 of 1 (95 % interval 0.21 to 1.00)" in printed
    checkpoint = (run / "checkpoints" / "last" / "pretrained_model").resolve()
    assert f"checkpoint: {checkpoint}" in printed


def test_each_kind_is_held_out_and_a_success_is_left_to_train_on():
    kinds = {episode: episode < 10 for episode in range(15)}
    train, held_out = trainer.split(kinds, 0.2, seed=0)
    assert sorted(train + held_out) == list(range(15))
    assert sum(kinds[episode] for episode in held_out) == 2
    assert len(held_out) == 3
    assert trainer.split({0: True, 1: True}, 0.9, seed=0)[0] in ([0], [1])
    assert trainer.split(kinds, 0.2, seed=1)[1] != held_out


def test_one_success_is_too_few_to_train_and_test_on():
    with pytest.raises(ValueError, match="expected 2 episodes or more with frames labelled as"):
        trainer.split({0: True, 1: False, 2: False}, 0.2, seed=0)


def test_frames_and_episodes_are_counted():
    """By hand: a success found, one called too early, one missed; a failure called a success."""
    labels = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]
    said = [[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0.8], [0, 1, 1, 0]]
    result = report.count(
        np.ravel(said), np.ravel(labels) > 0, np.array([0, 200, 400, 600] * 4) * 1_000_000,
        np.repeat([0, 3, 5, 9], 4), threshold=0.9, hold_s=0.2,
    )  # fmt: skip
    assert result == HeldOut(
        true_positives=5, false_negatives=1, false_positives=4, true_negatives=6,
        successes=3, called=2, early=1, failures=1, falsely_called=1,
        threshold=0.9, hold_s=0.2, episodes=[0, 3, 5, 9],
    )  # fmt: skip
    text = report.describe(result)
    assert "frames told right          0.688 of 16; always the commoner answer: 0.625" in text
    assert "done                       0.556      0.833        6" in text
    assert "2 of 3 (95 % interval 0.21 to 0.94), 1 of them before the frames" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dato": "x"}, "expected arguments out of data, encoder, .*, found dato"),
        ({"steps": "many"}, "steps: expected a whole number, 0 or more, found 'many'"),
        ({"steps": "0"}, "steps: expected a whole number, 1 or more, found '0'"),
        ({"held_out": "nan"}, "held_out: expected a number, found 'nan'"),
        ({"data": ""}, "data: expected a folder, found none"),
        ({"encoder": "microsoft/resnet-18"}, "encoder: expected a folder, found no such folder"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_at_once(parts, change, message):
    with pytest.raises(ArgumentError, match=message):
        training.run({name: str(path) for name, path in parts.items()} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "encoder"}, "data: expected a LeRobotDataset in .*, found: "),
        ({"encoder": "data"}, "encoder: expected weights in safetensors, found none in"),
        ({"cameras": "front,top"}, r"cameras: expected \['front', 'top'\] in the dataset, found"),
        ({"device": "abacus"}, "device: expected a torch device of this machine"),
        ({"held_out": "0"}, "held_out: expected a share between 0 and 1, found 0"),
    ],
)
def test_what_cannot_be_trained_with_is_refused_before_anything_is_written(
    parts, tmp_path, change, message
):
    given = parts | {name: parts.get(value, value) for name, value in change.items()}
    given = {name: str(value) for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        training.run(given | {"output": str(tmp_path / "run")})
    assert not (tmp_path / "run").exists()


def test_an_encoder_that_does_not_fit_the_frames_is_refused(parts, tmp_path):
    """LeRobot's classifier takes a grid of 4 by 4 from a CNN."""
    data = tmp_path / "data"
    from residual_smolvla_ros.success.frames import FrameDataset

    dataset = FrameDataset(data, ["front"], 5.0, (96, 96))
    for _ in range(2):
        dataset.add([{"front": np.zeros((96, 96, 3), dtype=np.uint8)}], np.ones(1))
    with pytest.raises(ValueError, match=r"expected one for images of \(3, 96, 96\), a CNN's"):
        training.run({"data": str(data), "encoder": str(parts["encoder"])})


def test_an_encoder_with_code_is_refused(parts, tmp_path):
    encoder = save_encoder(tmp_path / "encoder")
    edit(encoder / "config.json", auto_map={"AutoModel": "own.Net"})
    with pytest.raises(ValueError, match=r"encoder: config.json: expected no code, found auto_map"):
        training.run({"data": str(parts["data"]), "encoder": str(encoder)})


def test_a_run_is_not_written_over(trained, parts):
    _, run, _ = trained
    with pytest.raises(ArgumentError, match="output: expected a new or empty folder, found files"):
        training.run({name: str(p) for name, p in parts.items()} | {"output": str(run)})
