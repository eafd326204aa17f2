"""How a success model does on episodes that it was not trained on."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lerobot.utils.constants import OBS_IMAGES, REWARD
from scipy.stats import binomtest

from residual_smolvla_ros.success.frames import open_frames
from residual_smolvla_ros.success.hold import SuccessHold
from residual_smolvla_ros.success.model import SuccessModel

HELD_OUT = "held_out.json"
# A share of fewer episodes than this says little.
FEW = 10


@dataclass(frozen=True)
class HeldOut:
    """Counts over held-out episodes.

    Frames are told apart at 0.5. An episode counts as called once the probability has held, as it
    would on the robot; `early` are called before their first frame that is labelled as done.
    """

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    successes: int
    called: int
    early: int
    failures: int
    falsely_called: int
    threshold: float
    hold_s: float
    episodes: list[int]


def evaluate(
    model: SuccessModel, data: Path, episodes: list[int], threshold: float, hold_s: float
) -> HeldOut:
    """Ask a model about every frame of some episodes of a dataset."""
    dataset = open_frames(data, episodes)
    probabilities, labels, times, owners = [], [], [], []
    for index in range(len(dataset)):
        item = dataset[index]
        if not owners or owners[-1] != int(item["episode_index"]):
            model.reset(item["task"])
        images = {c: _pixels(item[f"{OBS_IMAGES}.{c}"]) for c in model.cameras}
        probabilities.append(model.predict(images))
        labels.append(float(item[REWARD]) > 0.5)
        times.append(round(1e9 * float(item["timestamp"])))
        owners.append(int(item["episode_index"]))
    arrays = (np.array(values) for values in (probabilities, labels, times, owners))
    return count(*arrays, threshold, hold_s)


def count(
    probabilities: np.ndarray,
    labels: np.ndarray,
    times: np.ndarray,
    episodes: np.ndarray,
    threshold: float,
    hold_s: float,
) -> HeldOut:
    """Return the counts for frames (n,): probability, whether labelled as done, ns, episode."""
    said = probabilities > 0.5
    names = np.unique(episodes)
    calls = []
    for name in names:
        mine = episodes == name
        frames = zip(probabilities[mine], labels[mine], times[mine], strict=True)
        calls.append((bool(labels[mine].any()), _call(frames, threshold, hold_s)))
    successes = [called for success, called in calls if success]
    failures = [called for success, called in calls if not success]
    return HeldOut(
        true_positives=int(np.sum(said & labels)),
        false_positives=int(np.sum(said & ~labels)),
        true_negatives=int(np.sum(~said & ~labels)),
        false_negatives=int(np.sum(~said & labels)),
        successes=len(successes),
        called=sum(called != "" for called in successes),
        early=sum(called == "early" for called in successes),
        failures=len(failures),
        falsely_called=sum(called != "" for called in failures),
        threshold=threshold,
        hold_s=hold_s,
        episodes=names.tolist(),
    )


def _call(frames, threshold: float, hold_s: float) -> str:
    """Return when an episode is called a success: in time, early, or "" if it never is."""
    hold = SuccessHold(threshold, hold_s)
    for probability, done, stamp in frames:
        if hold.update(int(stamp), float(probability)):
            return "in time" if done else "early"
    return ""


def _pixels(image: torch.Tensor) -> np.ndarray:
    # uint8 where it comes from a video, 0 to 1 where from a PNG.
    if image.is_floating_point():
        image = (255.0 * image).round().to(torch.uint8)
    return image.permute(1, 2, 0).contiguous().numpy()


def describe(result: HeldOut) -> str:
    """Return a result as text."""
    tp, fp = result.true_positives, result.false_positives
    tn, fn = result.true_negatives, result.false_negatives
    positive, negative = tp + fn, tn + fp
    count = positive + negative
    lines = [
        f"{result.successes} successes and {result.failures} failures that it was not trained on "
        f"(episodes {', '.join(str(k) for k in result.episodes)}):",
        f"  frames told right          {(tp + tn) / count:.3f} of {count}; "
        f"always the commoner answer: {max(positive, negative) / count:.3f}",
        "                             precision  recall  frames",
        f"  done                       {_ratio(tp, tp + fp)}      {_ratio(tp, positive)}"
        f"   {positive:6d}",
        f"  not done                   {_ratio(tn, tn + fn)}      {_ratio(tn, negative)}"
        f"   {negative:6d}",
        f"  with threshold {result.threshold:g} held for {result.hold_s:g} s",
        f"  successes called           {_share(result.called, result.successes)}, "
        f"{result.early} of them before the frames labelled as done",
        f"  failures called successes  {_share(result.falsely_called, result.failures)}",
    ]
    if min(result.successes, result.failures) < FEW:
        lines.append(f"  fewer than {FEW} held-out episodes of a kind: mind the intervals")
    return "\n".join(lines)


def _ratio(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "    -"


def _share(part: int, whole: int) -> str:
    if not whole:
        return "0 of 0"
    interval = binomtest(part, whole).proportion_ci(method="wilson")
    return f"{part} of {whole} (95 % interval {interval.low:.2f} to {interval.high:.2f})"


def write(folder: Path, result: HeldOut) -> None:
    """Write a result as `held_out.json`."""
    (folder / HELD_OUT).write_text(json.dumps(dataclasses.asdict(result), indent=1) + "\n")
