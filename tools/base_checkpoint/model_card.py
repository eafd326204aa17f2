"""The README.md of the checkpoint: how it was made and what it scores."""

from pathlib import Path

from evaluate import HELD_OUT_SEEDS, Result
from expert import EPISODE_STEPS
from train import BATCH_SIZE, CHUNK_SIZE, PLAN_JITTER

from residual_smolvla_ros.robots.simulation import IMAGE_SIZE, RATE_HZ, TASK

_CARD = """\
---
license: apache-2.0
library_name: lerobot
pipeline_tag: robotics
tags: [smolvla, so101, simulation]
---

# pick_lift_base: a tiny SmolVLA that sometimes lifts the cube

A LeRobot `SmolVLAPolicy` with a VLM of {vlm_size:.2f} million parameters ({total_size:.2f} million in
all), trained from random weights on a simulated SO101. It is the frozen base of this repository's
demo: good enough to come close to the cube, poor enough that a residual has something to learn.
It is no use on a real arm or on another task.

## Use

Task sentence: "{task}". Cameras `front` and `wrist`, {image}x{image}. States and actions in LeRobot
units (degrees, gripper 0 to 100), {rate} Hz, chunks of {chunk} steps.
`config.json` and `policy_preprocessor.json` name the VLM folder `vlm`, relative to this folder:
pass its real path as `vlm_model_name` and as the tokenizer's name when loading.

## Data

{episodes} successful demonstrations of {ticks} steps by a scripted expert (inverse kinematics on the
cube's true pose, {noise:g} mm of Gaussian noise on the target) in so101-nexus
`MuJoCoPickLift-v1`, scenes from seed 0 upward. Not included here; the script records them.

## Training

Loss: {loss} AdamW, batch {batch}; half of the samples start within {jitter} steps of the ticks the
policy plans at (0 and {chunk}), the rest anywhere. {steps} steps in {minutes:.0f} minutes of CPU training
on {threads} threads (a plan of {planned}, stopped once success on 100 validation scenes, seeds from
500000, reached {stop_at:g}).

    python tools/base_checkpoint/make.py --output FOLDER --episodes {episodes} --noise-mm {noise:g} \\
        --steps {planned} --check-every {every} --stop-at {stop_at:g} --seed {seed}

Floating-point order differs between machines, so a second run gives a similar, not the same, policy.

## Result

{result}.

Seeds {first} to {last}, {ticks} steps each, flow noise fixed by seed and chunk. Success: the cube is
grasped and more than 5 cm up at any step. Misses are mostly of where the cube is, by about a
centimetre.

## Licence

Apache-2.0.
"""


def write_card(
    checkpoint: Path, policy, dataset, arguments, steps: int, seconds: float, result: Result
) -> None:
    """Write the model card into the checkpoint folder."""
    vlm = policy.model.vlm_with_expert.vlm
    card = _CARD.format(
        vlm_size=sum(p.numel() for p in vlm.parameters()) / 1e6,
        total_size=sum(p.numel() for p in policy.parameters()) / 1e6,
        task=TASK,
        image=IMAGE_SIZE,
        rate=RATE_HZ,
        chunk=CHUNK_SIZE,
        ticks=EPISODE_STEPS,
        episodes=dataset.meta.total_episodes,
        noise=arguments.noise_mm,
        loss="SmolVLA's own flow matching, nothing else.",
        batch=BATCH_SIZE,
        jitter=PLAN_JITTER,
        steps=steps,
        minutes=seconds / 60,
        threads=arguments.threads,
        planned=arguments.steps,
        every=arguments.check_every,
        stop_at=arguments.stop_at,
        seed=arguments.seed,
        result=str(result)[0].upper() + str(result)[1:],
        first=HELD_OUT_SEEDS[0],
        last=HELD_OUT_SEEDS[-1],
    )
    (checkpoint / "README.md").write_text(card)
