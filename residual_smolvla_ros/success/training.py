"""The command `train-success`: train LeRobot's reward classifier on collected frames."""

from datetime import datetime
from pathlib import Path

from residual_smolvla_ros.arguments import (
    Argument,
    ArgumentError,
    boolean,
    check_new,
    count,
    names,
    number,
    parse_values,
    whole_number,
)

TRAIN_SUCCESS = "train-success"


def _positive(text: str) -> float:
    if number(text) < 0.0:
        raise ValueError("a number, 0 or more")
    return float(text)


ARGUMENTS = tuple(
    Argument(name, default, text, parse, (TRAIN_SUCCESS,))
    for name, default, text, parse in (
        ("data", "", "folder of the dataset that frame_collector wrote", str),
        ("encoder", "", "local folder of a transformers vision model", str),
        ("output", "", "folder of the run; default: outputs/success-<date>-<time>", str),
        ("steps", "5000", "training steps", count),
        ("batch_size", "16", "frames of a training step", count),
        ("learning_rate", "0.0001", "learning rate", _positive),
        ("device", "cpu", "torch device to train on", str),
        ("cameras", "", "cameras to look at, as front,wrist; default: all", names),
        (
            "held_out",
            "0.2",
            "share of episodes to test on, of each kind at least one",
            _positive,
        ),
        ("threshold", "0.9", "threshold of the test, as success_classifier's", _positive),
        ("hold_s", "0.3", "hold time of the test, as success_classifier's", _positive),
        ("seed", "0", "seed of the split and of the training", whole_number),
        ("allow_code", "false", "run Python code in the encoder's folder", boolean),
    )
)


def run(given: dict[str, str]) -> int:
    """Train, test on held-out episodes and say where the checkpoint is; return an exit code.

    Raises ValueError with one line for what cannot work, before anything is written.
    """
    values = parse_values(ARGUMENTS, given)
    data, encoder = _folder("data", values), _folder("encoder", values)
    output = _output(values["output"])
    # Only now: a wrong argument is refused at once, without seconds of imports.
    from residual_smolvla_ros.success import report, trainer
    from residual_smolvla_ros.success.model import SuccessModel

    job = trainer.prepare(data, encoder, output, values)
    print(
        f"{data}: {len(job.train)} episodes to train on, {len(job.held_out)} held out; "
        f"{job.positives} of {job.frames} training frames are labelled as done",
        flush=True,
    )
    try:
        checkpoint = trainer.train(job)
    except KeyboardInterrupt:
        print("interrupted: no checkpoint was written")
        return 130
    model = SuccessModel.load(checkpoint, values["device"], allow_code=values["allow_code"])
    result = report.evaluate(model, data, job.held_out, values["threshold"], values["hold_s"])
    report.write(output, result)
    print(report.describe(result))
    print(f"checkpoint: {checkpoint}")
    return 0


def _folder(name: str, values: dict) -> Path:
    path = Path(values[name]).expanduser().resolve()
    if not values[name] or not path.is_dir():
        found = f"no such folder: {values[name]}" if values[name] else "none"
        raise ArgumentError(f"{name}: expected a folder, found {found}")
    return path


def _output(text: str) -> Path:
    output = Path(text or f"outputs/success-{datetime.now():%Y%m%d-%H%M%S}").expanduser().resolve()
    check_new(output, "output")
    return output
