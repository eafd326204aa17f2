"""Pictures of a run: the learning curve, and the clip of base and residual side by side."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import binomtest

FRAME_MS = 100
CAPTION_HEIGHT = 24
CAPTION_FONT = ImageFont.load_default(16)


def draw_learning_curve(
    file: Path, points: list[tuple[int, float, int]], summary: dict, kind: str = "validation seeds"
) -> Path | None:
    """Draw success over training steps with 95 % intervals; None where nothing was trained.

    `points` are steps, success and number of episodes, which `kind` names.
    """
    if not summary["env_steps"]:
        return None
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    if points:
        steps, success, episodes = (np.asarray(column) for column in zip(*points, strict=True))
        intervals = [
            binomtest(round(s * n), int(n)).proportion_ci(method="wilson")
            for s, n in zip(success, episodes, strict=True)
        ]
        low, high = [i.low for i in intervals], [i.high for i in intervals]
        axes.fill_between(steps / 1e3, low, high, alpha=0.2, color="tab:blue", linewidth=0)
        label = f"while training ({episodes[-1]} {kind})"
        axes.plot(steps / 1e3, success, "o-", color="tab:blue", label=label)
    for key, color, name in (
        ("base", "tab:gray", "base alone"),
        ("residual", "tab:green", "base + residual"),
    ):
        if summary[f"success_{key}"] is not None:
            low, high = summary[f"success_{key}_ci95"]
            axes.axhspan(low, high, alpha=0.15, color=color, linewidth=0)
            label = f"{name} ({summary['eval_episodes']} held-out seeds)"
            axes.axhline(summary[f"success_{key}"], color=color, linestyle="--", label=label)
    axes.set(xlabel="control steps of training (thousands)", ylabel="success", ylim=(0, 1))
    axes.set_xlim(left=0)
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=130)
    plt.close(figure)
    return file


def write_clip(file: Path, columns: list[tuple[str, list[np.ndarray]]]) -> Path | None:
    """Write frames of several episodes side by side as an animation; None without frames.

    An episode that is over earlier stands still on its last frame.
    """
    if not all(frames for _, frames in columns):
        return None
    length = max(len(frames) for _, frames in columns)
    pages = []
    for index in range(length):
        tiles = [_captioned(name, frames[min(index, len(frames) - 1)]) for name, frames in columns]
        pages.append(Image.fromarray(np.hstack(tiles)))
    pages[0].save(file, save_all=True, append_images=pages[1:], duration=FRAME_MS, loop=0)
    return file


def _captioned(text: str, frame: np.ndarray) -> np.ndarray:
    caption = Image.new("RGB", (frame.shape[1], CAPTION_HEIGHT), "black")
    ImageDraw.Draw(caption).text((8, 3), text, fill="white", font=CAPTION_FONT)
    return np.vstack([np.asarray(caption), frame])
