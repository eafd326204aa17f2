"""What a plan of a full-size SmolVLA takes: LeRobot's own predict_action_chunk, and each option.

    .venv/bin/python benchmarks/full_size_plan.py                        # on a CUDA machine
    .venv/bin/python benchmarks/full_size_plan.py --device cpu --small   # whether it works

builds SmolVLA offline from the configuration of SmolVLM2-500M-Video-Instruct and of LeRobot's
smolvla_base (16 layers of the VLM, three cameras at 512 px, 50 actions in 10 denoising steps) with
random weights, and plans with it in one process, one option after the other.
"""

import argparse
import contextlib
import gc
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lerobot
import numpy as np
import torch
from full_size_smolvla import CAMERAS, IMAGE, JOINTS, make_checkpoint
from lerobot.policies.utils import prepare_observation_for_inference

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.planning import AS_LEROBOT, BFLOAT16, FLOAT32, Acceleration
from residual_smolvla_ros.policy.base import FrozenSmolVLA

TASK = "Lift the red cube"
OBSERVATIONS = 4  # planned from in turn


@dataclass(frozen=True)
class Row:
    """A way to plan; LeRobot's own where there is no acceleration."""

    name: str
    acceleration: Acceleration | None = None
    autocast: bool = False  # bfloat16
    bfloat16: bool = False  # weights
    lerobots_compile: bool = False

    @property
    def compiles(self) -> bool:
        """Whether torch.compile has its share."""
        return self.lerobots_compile or bool(self.acceleration and self.acceleration.compile)


BASELINE = Row("LeRobot, VLM's weights float32")
ROWS = (
    BASELINE,
    Row("LeRobot, bfloat16 autocast", autocast=True),
    Row("LeRobot, bfloat16 weights", bfloat16=True),
    Row("nothing waits", AS_LEROBOT),
    Row("precision bfloat16", Acceleration(BFLOAT16)),
    Row("cuda_graph", Acceleration(FLOAT32, cuda_graph=True)),
    Row("compile", Acceleration(FLOAT32, compile=True)),
    Row("bfloat16 + cuda_graph", Acceleration(BFLOAT16, cuda_graph=True)),
    Row("bfloat16 + compile", Acceleration(BFLOAT16, compile=True)),
    Row("bfloat16 + compile + cuda_graph", Acceleration(BFLOAT16, True, True)),
    Row("LeRobot, VLM's weights float32, again"),
)
# Compiles the ten steps as one, for many minutes, and changes float32 products of the process.
LEROBOTS_COMPILE = Row("LeRobot, its compile_model", lerobots_compile=True)


class Planner:
    """Plan as a row says, from images in memory or from a batch that is on the device."""

    def __init__(self, row: Row, checkpoint: Path, device: str):
        self.base = FrozenSmolVLA(checkpoint, device)
        self._policy, self._is_lerobots = self.base._policy, row.acceleration is None
        self._autocast = row.autocast
        if row.bfloat16:
            self._policy.model.vlm_with_expert.to(torch.bfloat16)
        if row.lerobots_compile:
            self._policy.config.compile_model = True
            torch.set_float32_matmul_precision("high")
            model = self._policy.model
            model.sample_actions = torch.compile(
                model.sample_actions, mode=self._policy.config.compile_mode
            )
        if not self._is_lerobots:
            self.base.accelerate(row.acceleration)
        rng = np.random.default_rng(0)
        self.observations = [
            (
                {name: rng.integers(0, 256, IMAGE, np.uint8) for name in CAMERAS},
                rng.normal(size=JOINTS),
            )
            for _ in range(OBSERVATIONS)
        ]
        self.noises = [self.base.make_noise(index) for index in range(OBSERVATIONS)]
        self.batches = [self._batch(index) for index in range(OBSERVATIONS)]

    def _batch(self, index: int) -> dict:
        images, state = self.observations[index]
        if not self._is_lerobots:
            return self.base._batch([images], state[None], TASK)
        observation = {f"observation.images.{name}": image for name, image in images.items()}
        observation["observation.state"] = state.astype(np.float32)
        return self.base._preprocess(
            prepare_observation_for_inference(observation, self.base.device, TASK)
        )

    @torch.no_grad()
    def chunk(self, batch: dict, index: int) -> torch.Tensor:
        """Return what predict_action_chunk does."""
        kind = self.base.device.type
        precise = contextlib.nullcontext()
        with torch.autocast(kind, torch.bfloat16) if self._autocast else precise:
            return self._policy.predict_action_chunk(dict(batch), noise=self.noises[index])

    def prepared(self, index: int) -> None:
        """Plan from a batch on the device, and wait for the actions there."""
        self.chunk(self.batches[index], index)
        if self.base.device.type == "cuda":
            torch.cuda.synchronize()

    def whole(self, index: int) -> np.ndarray:
        """Return the actions (50, joints) in memory, from images in memory."""
        return self.chunk(self._batch(index), index)[0].float().cpu().numpy()


def take_times(plan: Callable, plans: int) -> np.ndarray:
    """Return the ms of each of `plans` plans."""
    times = []
    for number in range(plans):
        start = time.perf_counter()
        plan(number % OBSERVATIONS)
        times.append(1e3 * (time.perf_counter() - start))
    return np.array(times)


def measure(row: Row, checkpoint: Path, device: str, plans: int) -> dict:
    """Return what a row's plans take, and its actions."""
    gc.collect()
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    torch._dynamo.reset()
    start = time.perf_counter()
    planner = Planner(row, checkpoint, device)
    actions = np.stack([planner.whole(index) for index in range(OBSERVATIONS)])
    take_times(planner.prepared, OBSERVATIONS)
    warm_up = time.perf_counter() - start
    return {
        "actions": actions,
        "warm_up": warm_up,
        "prepared": take_times(planner.prepared, plans),
        "whole": take_times(planner.whole, plans),
        "memory": torch.cuda.max_memory_allocated() / 2**20 if is_cuda else None,
    }


def describe(checkpoint: Path, device: str, is_small: bool) -> None:
    """Print what is measured, and on what."""
    base = FrozenSmolVLA(checkpoint, device)
    model = base._policy.model.vlm_with_expert
    vision, expert = model.get_vlm_model().vision_model, model.lm_expert
    batch = base._batch(
        [{n: np.zeros(IMAGE, np.uint8) for n in CAMERAS}], np.zeros((1, JOINTS)), TASK
    )
    language = batch["observation.language.tokens"].shape[1]
    places = base.token_shape[1]
    millions = sum(p.numel() for p in base._policy.parameters()) / 1e6
    print(f"SmolVLA of {millions:.0f} M parameters with random weights; {len(CAMERAS)} images")
    print(f"{IMAGE[1]}x{IMAGE[0]}, {places} tokens each; {language} tokens of language, padded")
    print(f"{model.num_vlm_layers} layers, {base.config.chunk_size} actions, "
          f"{base.config.num_steps} denoising steps; as loaded, the VLM's weights are "
          f"{vision.dtype}, the expert's {expert.dtype}".replace("torch.", ""))  # fmt: skip
    name = torch.cuda.get_device_name() if base.device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, LeRobot {lerobot.__version__}, "
          f"{torch.get_num_threads()} thread(s), load of the last minute "
          f"{os.getloadavg()[0]:.1f}")  # fmt: skip
    if base.device.type != "cuda":
        print("On a CPU these are NOT the figures of a GPU, and say nothing about them.")
    if is_small:
        print("Small shapes, NOT SmolVLA's: that it works, and that plans are the same.")


def table_row(found: dict, base: dict) -> str:
    """Return the columns after a row's name."""
    std = base["actions"].std()
    off = np.abs(found["actions"] - base["actions"]) / std
    median = np.median(found["prepared"])
    memory = "-" if found["memory"] is None else f"{found['memory']:.0f}"
    columns = [
        f"{median:9.2f} {np.percentile(found['prepared'], 99):9.2f}",
        f"{np.median(base['prepared']) / median:7.2f}",
        f"{np.median(found['whole']):9.2f} {np.percentile(found['whole'], 99):9.2f}",
        f"{off.max():9.5f} {off.mean():9.5f}",
        f"{memory:>7} {found['warm_up']:8.1f}",
    ]
    return " ".join(columns)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small shapes, to see that it works")
    parser.add_argument("--plans", type=int, help="timed, a row and column; 200, on a CPU 20")
    parser.add_argument("--skip-compile", action="store_true")
    parser.add_argument("--lerobots-compile", action="store_true", help="LeRobot's compile_model")
    options = parser.parse_args()
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device: expected a device of this machine, found {options.device}")
    is_cpu = torch.device(options.device).type == "cpu"
    if is_cpu:
        torch.set_num_threads(1)
    plans = options.plans or (20 if is_cpu else 200)
    with tempfile.TemporaryDirectory() as name:
        checkpoint = Path(name) / "checkpoint"
        checkpoint.mkdir()
        make_checkpoint(checkpoint, options.small)
        describe(checkpoint, options.device, options.small)
        print(f"{plans} plans a figure, after the warm-up (loading, compiling, capturing)")
        print(f"{'':38} {'predict_action_chunk':>19} {'ratio':>7} {'images to actions':>19} "
              f"{'off, std of actions':>19} {'GPU':>7} {'warm-up':>8}")  # fmt: skip
        print(f"{'':38} {'median':>9} {'99 %, ms':>9} {'':>7} {'median':>9} {'99 %, ms':>9} "
              f"{'most':>9} {'mean':>9} {'MiB':>7} {'s':>8}")  # fmt: skip
        base = None
        for row in (*ROWS, *[LEROBOTS_COMPILE] * options.lerobots_compile):
            if options.skip_compile and row.compiles:
                print(f"{row.name:38} skipped (--skip-compile)", flush=True)
                continue
            try:
                found = measure(row, checkpoint, options.device, plans)
            except (ConfigError, RuntimeError) as error:
                print(f"{row.name:38} not measured: {' '.join(str(error).split())[:160]}")
                continue
            base = base or found
            print(f"{row.name:38} {table_row(found, base)}", flush=True)


if __name__ == "__main__":
    main()
