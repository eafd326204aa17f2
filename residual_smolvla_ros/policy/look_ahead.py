"""What the next control step of several policies needs, computed for all of them at once."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from residual_smolvla_ros.policy.frozen import Images
from residual_smolvla_ros.policy.residual_policy import ResidualPolicy


def look_ahead(
    policies: Sequence[ResidualPolicy],
    states: Sequence[np.ndarray],
    look: Callable[[int, Sequence[str]], Images],
) -> None:
    """Give each policy the plan and the vision tokens that its next step needs.

    The policies share a base. `states` are (joints,) each; `look` takes the number of a policy
    and names of cameras, and returns what they see.
    """
    if not policies:  # all arms have come to their episodes' ends
        return
    base = policies[0].base
    planning = [row for row, policy in enumerate(policies) if policy.needs_plan]
    seeing = [row for row, policy in enumerate(policies) if policy.needs_tokens]
    cameras = policies[0].config.vision_cameras or base.cameras
    images = {
        row: look(row, base.cameras if row in planning else cameras)
        for row in sorted({*planning, *seeing})
    }
    if planning:
        noise = torch.cat([policies[row].next_noise() for row in planning])
        chunks = base.plan_batch(
            [images[row] for row in planning],
            np.stack([states[row] for row in planning]),
            [policies[row].task for row in planning],
            noise,
        )
        for row, chunk in zip(planning, chunks, strict=True):
            policies[row].take_plan(chunk)
    if seeing:
        tokens = base.encode([images[row] for row in seeing], cameras)
        for row, seen in zip(seeing, tokens, strict=True):
            policies[row].see(seen)
