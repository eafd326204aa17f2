"""SmolVLA made faster plans as LeRobot's own code does, and does not make the processor wait."""

import numpy as np
import pytest
import torch
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from torch.utils._python_dispatch import TorchDispatchMode

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.planning import AS_LEROBOT, BFLOAT16, Acceleration, Planning
from residual_smolvla_ros.policy.acceleration import Graphed, Sampler, accelerate
from residual_smolvla_ros.policy.base import FrozenSmolVLA, load_base
from residual_smolvla_ros.policy.chunk_player import PlanRequest

TASK = "Lift the red cube"
STATE = np.array([5.0, -60.0, 55.0, 60.0, -10.0, 20.0])
# Operations that wait until the device has come to them, or copy to it from pageable memory.
WAITING = {"lift_fresh", "_local_scalar_dense", "nonzero", "is_nonzero", "masked_select"}


@pytest.fixture(scope="module")
def lerobots() -> FrozenSmolVLA:
    base = load_base(DEMO_CHECKPOINT)
    base.enable_rtc(5)
    return base


@pytest.fixture(scope="module")
def fast() -> FrozenSmolVLA:
    """Float32, with a sampler that does not wait."""
    base = FrozenSmolVLA(DEMO_CHECKPOINT)
    base.accelerate(AS_LEROBOT)
    base.enable_rtc(5)
    return base


def observe(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for n in ("front", "wrist")}


def plan(base: FrozenSmolVLA, seed: int = 0, task: str = TASK, request=None) -> np.ndarray:
    return base.plan(observe(seed), STATE, task, base.make_noise(seed), request)


def make_request(chunk: np.ndarray) -> PlanRequest:
    """Ask for a plan that goes on with what is left of a chunk, which was another one's."""
    return PlanRequest(tick=10, lead=3, left_over=chunk[10:] + 0.5)


class Waits(TorchDispatchMode):
    """Names of the operations that would wait for a device."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        indices = args[1] if name in ("index", "index_put_") else ()
        by_mask = any(one is not None and one.dtype is torch.bool for one in indices)
        # Of nothing there is nothing to copy.
        if by_mask or (name in WAITING and args[0].numel()):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def waits_of(base: FrozenSmolVLA) -> list[str]:
    """Return what waits within a plan, from the prepared batch on."""
    batch = base._batch([observe(0)], STATE[None], TASK)
    with Waits() as waits:
        base._chunks(batch, base.make_noise(0))
    return waits.names


# -- what it computes -----------------------------------------------------------------------


def test_by_default_the_plan_is_lerobots_to_the_bit(lerobots):
    policy = SmolVLAPolicy.from_pretrained(DEMO_CHECKPOINT, config=lerobots.config).eval()
    batch = lerobots._batch([observe(0)], STATE[None], TASK)
    expected = policy.predict_action_chunk(batch, noise=lerobots.make_noise(0))[0].numpy()
    np.testing.assert_array_equal(plan(lerobots), expected)


@pytest.mark.parametrize("task", [TASK, "", "a sentence of many more tokens than the task has"])
def test_the_sampler_differs_in_rounding_only(lerobots, fast, task):
    np.testing.assert_allclose(plan(fast, 1, task), plan(lerobots, 1, task), atol=1e-5)


def test_real_time_chunking_guides_it_as_it_guides_lerobots(lerobots, fast):
    request = make_request(plan(lerobots))
    free, guided = plan(lerobots, 1), plan(lerobots, 1, request=request)
    assert np.abs(guided - free).max() > 0.1, "nothing was guided"
    np.testing.assert_allclose(plan(fast, 1, request=request), guided, atol=1e-5)


def test_a_guided_step_is_of_the_shape_of_a_free_one(fast, monkeypatch):
    """A stride of LeRobot's own had all compiled anew, in the middle of an episode."""
    sampler = fast._policy.model.sample_actions
    seen = []

    def velocity(now, prefix, step=sampler._velocity):
        tensors = (*now, *prefix)
        seen.append([(x.shape, x.stride(), x.dtype) for x in tensors] + [torch.is_grad_enabled()])
        return step(now, prefix)

    monkeypatch.setattr(sampler, "_velocity", velocity)
    plan(fast, request=make_request(plan(fast)))
    assert len(seen) == 2 * fast.config.num_steps
    assert all(one == seen[0] for one in seen)


def test_several_robots_are_planned_for_as_one_is(lerobots, fast):
    images, noise = [observe(0), observe(1)], torch.cat([fast.make_noise(s) for s in (0, 1)])
    chunks = fast.plan_batch(images, np.stack([STATE, STATE]), TASK, noise)
    expected = np.stack([plan(lerobots, seed) for seed in (0, 1)])
    np.testing.assert_allclose(chunks, expected, atol=1e-5)


def test_bfloat16_is_near_with_six_patches_a_side(lerobots):
    """Transformers rounds the places of patches too, and puts a third of them elsewhere."""
    base = load_base(DEMO_CHECKPOINT, planning=Planning(acceleration=Acceleration(BFLOAT16)))
    assert base._policy.model.vlm_with_expert.lm_expert.norm.weight.dtype is torch.bfloat16
    for seed in range(3):
        expected = plan(lerobots, seed)
        assert 0 < np.abs(plan(base, seed) - expected).max() < 0.05 * expected.std()
    tokens, expected = (one.encode([observe(0)]) for one in (base, lerobots))
    assert np.abs(tokens - expected).max() < 0.05 * expected.std()


# -- what it waits for ----------------------------------------------------------------------


def test_nothing_in_a_plan_waits_for_the_device(lerobots, fast):
    """A copied time in every denoising step, a mask in every image: CUDA captures neither."""
    assert len(waits_of(lerobots)) > lerobots.config.num_steps
    assert waits_of(fast) == []


def test_a_graph_reads_what_is_new_and_is_captured_once(fast, lerobots, monkeypatch):
    """Of the capture only the graph itself is played: its results keep their places."""
    captured = []

    def capture(function):
        result = function()
        captured.append(result)

        def replay():
            for place, value in zip(flat(result), flat(function()), strict=True):
                place.copy_(value)

        return replay, result

    def flat(result):
        return [result] if isinstance(result, torch.Tensor) else result

    sampler = fast._policy.model.sample_actions
    assert isinstance(sampler, Sampler)
    for name in ("_prefill", "_velocity"):
        monkeypatch.setattr(sampler, name, Graphed(getattr(sampler, name), capture))
    for seed, task in enumerate([TASK, "", "lift", TASK]):
        expected = plan(lerobots, seed, task)
        np.testing.assert_allclose(plan(fast, seed, task), expected, atol=1e-5)
    assert len(captured) == 2


# -- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"precision": "float8"}, "precision: expected float32 or bfloat16, found 'float8'"),
        ({"compile": "yes"}, "compile: expected true or false, found 'yes'"),
    ],
)
def test_what_makes_no_sense_is_refused(given, line):
    with pytest.raises(ConfigError, match=f"^{line}$"):
        Acceleration(**given)


def test_cuda_graphs_need_cuda():
    planning = Planning(acceleration=Acceleration(cuda_graph=True))
    with pytest.raises(ConfigError, match=r"^cuda_graph: expected the device cuda, found cpu$"):
        load_base(DEMO_CHECKPOINT, planning=planning)


def test_a_checkpoint_of_unusual_settings_is_refused_before_anything_is_changed(lerobots):
    policy = lerobots._policy
    policy.config.prefix_length = 300
    try:
        with pytest.raises(ConfigError, match=r"found prefix_length: 300$"):
            accelerate(policy, Acceleration(BFLOAT16))
    finally:
        policy.config.prefix_length = -1
    assert policy.model.vlm_with_expert.lm_expert.norm.weight.dtype is torch.float32
