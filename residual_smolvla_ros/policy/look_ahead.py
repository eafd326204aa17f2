"""What the next control step of several policies needs, computed for all of them at once."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from residual_smolvla_ros.policy.chunk_player import PlanRequest
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
    planning = [row for row, policy in enumerate(policies) if policy.plan_due]
    seeing = [row for row, policy in enumerate(policies) if policy.needs_tokens]
    cameras = policies[0].config.vision_cameras or base.cameras
    images = {
        row: look(row, base.cameras if row in planning else cameras)
        for row in sorted({*planning, *seeing})
    }
    asked = {row: policies[row].ask_for_plan() for row in planning}
    for rows, requests in _batches(asked, base.is_guided):
        noise = torch.cat([base.make_noise(*policies[row].noise_seed) for row in rows])
        chunks = base.plan_batch(
            [images[row] for row in rows],
            np.stack([states[row] for row in rows]),
            [policies[row].task for row in rows],
            noise,
            requests,
        )
        for row, chunk, request in zip(rows, chunks, requests, strict=True):
            policies[row].take_plan(chunk, request)
    if seeing:
        tokens = base.encode([images[row] for row in seeing], cameras)
        for row, seen in zip(seeing, tokens, strict=True):
            policies[row].see(seen)


def _batches(
    requests: dict[int, PlanRequest], guided: bool
) -> list[tuple[list[int], list[PlanRequest]]]:
    """Return rows and requests that are planned for at once: guided ones, if of one phase."""
    batches: dict[tuple, list[int]] = {}
    for row, request in requests.items():
        left = -1 if request.left_over is None else len(request.left_over)
        batches.setdefault((request.lead, left) if guided else (), []).append(row)
    return [(rows, [requests[row] for row in rows]) for rows in batches.values()]
