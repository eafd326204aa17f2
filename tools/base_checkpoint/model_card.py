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

A LeRobot `SmolVLAPolicy` with a VLM of {vlm_size:.2f} million parameters
({total_size:.2f} million in all), trained from random weights on a simulated SO101.

## Intended use

The frozen base of this repository's demo: it comes close to the cube and leaves a residual
something to learn. It is no use on a real arm, in another scene or for another task.

## Loading

Task sentence: "{task}". Cameras `front` and `wrist`, {image}x{image}. States and actions in
LeRobot units (degrees, gripper 0 to 100), {rate} Hz, chunks of {chunk} steps.
`config.json` and `policy_preprocessor.json` name the VLM folder `vlm`, relative to this folder:
pass its real path as `vlm_model_name` and as the tokenizer's name when loading.

## Data

{episodes} successful demonstrations of {ticks} steps by a scripted expert (inverse
kinematics on the cube's true pose, {noise:g} mm of Gaussian noise on the target) in so101-nexus
`MuJoCoPickLift-v1`, scenes from seed 0 upward. Not included here; the script records them.

## Training

Loss: SmolVLA's own flow matching (`SmolVLAPolicy.forward`), no auxiliary loss. As LeRobot builds
it, the VLM's last text layer, final norm and output head stay frozen, here at random values.

AdamW, batch {batch}. Half of the samples start within {jitter} steps of the ticks the policy
plans at (0 and {chunk}), the rest anywhere. {steps} steps in {minutes:.0f} minutes
with {threads} CPU threads.

{planned} steps were planned; training ends at the first check, each {every} steps, where success
over 100 validation scenes (seeds from 500000) is at least {stop_at:g}.

    python tools/base_checkpoint/make.py --output FOLDER \\
        --episodes {episodes} --noise-mm {noise:g} --steps {planned} --check-every {every} \\
        --stop-at {stop_at:g} --seed {seed}

Floating-point order differs between machines: elsewhere the same command gives a similar
policy, not the same one.

## Result

{result}

Seeds {first} to {last}, {ticks} steps each, flow noise fixed by seed and chunk. Success:
the cube is grasped and more than 5 cm up at any step.

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
        batch=BATCH_SIZE,
        jitter=PLAN_JITTER,
        steps=steps,
        minutes=seconds / 60,
        threads=arguments.threads,
        planned=arguments.steps,
        every=arguments.check_every,
        stop_at=arguments.stop_at,
        seed=arguments.seed,
        result=str(result).replace("success", "Success", 1).replace("; tool", ".\nTool", 1) + ".",
        first=HELD_OUT_SEEDS[0],
        last=HELD_OUT_SEEDS[-1],
    )
    (checkpoint / "README.md").write_text(card)
