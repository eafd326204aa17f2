"""Vision tokens in the pipeline: when images come, who waits for them, and how old they are."""

import time

import graph
import numpy as np
import pytest

from residual_smolvla_ros import image_period, pipeline
from residual_smolvla_ros.learning.checkpoint import save_checkpoint
from residual_smolvla_ros.nodes.parts.vision_worker import VisionWorker
from residual_smolvla_ros.policy.actor_critic import ResidualActorCritic
from residual_smolvla_ros.policy.features import ResidualConfig
from residual_smolvla_ros.policy.residual_policy import ResidualPolicy

PERIOD_NS = 33_333_333
STATE = np.array([5.0, -60.0, 55.0, 60.0, -10.0, 20.0])
VISION = {"features": ["state", "vision", "vision_age", "privileged"], "vision_period_steps": 4}


@pytest.fixture
def vision() -> ResidualConfig:
    return ResidualConfig.from_names(
        ["state", "vision", "vision_age"],
        6,
        token_shape=(2, 9, 128),
        vision_period_steps=4,
        hidden_sizes=(8,),
    )


# -- the worker, without ROS ----------------------------------------------------------------


@pytest.fixture
def make_worker(base, kinematics, vision):
    """Return a function that makes a worker of a policy in an episode, and the policy."""

    def make(lockstep: bool) -> tuple[VisionWorker, ResidualPolicy]:
        policy = ResidualPolicy(base, kinematics=kinematics)
        policy.load_weights(vision, ResidualActorCritic(vision).state_dict(), version=1)
        policy.begin_episode(1, max_steps=50)
        policy.take_plan(np.zeros((base.chunk_size, base.action_size), dtype=np.float32))
        return VisionWorker(policy, lockstep, PERIOD_NS), policy

    return make


@pytest.fixture
def images(base) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for name in base.cameras}


def stamp_of(tick: int) -> int:
    return 1_000_000_000 + tick * PERIOD_NS


def stamps_of(tick: int) -> dict[str, int]:
    return {"front": stamp_of(tick), "wrist": stamp_of(tick) + 1}


def collect_next(worker: VisionWorker, stamp: int) -> None:
    """Collect at a state until what the thread encodes has been taken."""
    before, end = worker.age_ms(stamp), time.monotonic() + 30
    while worker.age_ms(stamp) == before:
        assert time.monotonic() < end, "nothing was encoded in time"
        worker.collect(stamp)


def test_in_lockstep_a_step_waits_for_tokens_whenever_they_are_due(make_worker, images):
    worker, policy = make_worker(lockstep=True)
    assert worker.age_ms(stamp_of(0)) == -1
    waited, ages = [], []
    for tick in range(9):
        if worker.due:
            waited.append(tick)
            worker.see(images, stamps_of(tick), stamp_of(tick))
        assert not worker.idle
        ages.append((policy.step(STATE).token_age, worker.age_ms(stamp_of(tick))))
    assert waited == [0, 4, 8]
    assert ages == [(0, 0), (1, 33), (2, 67), (3, 100)] * 2 + [(0, 0)]


def test_in_real_time_a_step_waits_for_the_first_tokens_only(make_worker, images, base):
    worker, policy = make_worker(lockstep=False)
    assert worker.due
    worker.see(images, stamps_of(-1), stamp_of(0))
    for tick in range(5):
        worker.collect(stamp_of(tick))
        assert not worker.due
        assert policy.step(STATE).token_age == tick + 1  # their image was a step old
        assert worker.used() == (stamps_of(-1) if tick == 0 else {})
    assert worker.idle
    dark = {name: np.zeros_like(image) for name, image in images.items()}
    worker.start(lambda: dark, stamps_of(4))
    assert not worker.idle
    collect_next(worker, stamp_of(5))  # a state that is not answered
    worker.collect(stamp_of(6))
    assert worker.age_ms(stamp_of(6)) == 67
    step = policy.step(STATE)
    assert step.token_age == 2
    assert worker.used() == stamps_of(4)
    np.testing.assert_array_equal(step.features[6:-1], base.encode([dark]).ravel())


def test_an_image_younger_than_its_state_is_of_age_0(make_worker, images):
    worker, policy = make_worker(lockstep=False)
    worker.see(images, stamps_of(1), stamp_of(0))
    assert worker.age_ms(stamp_of(0)) == 0
    assert policy.step(STATE).token_age == 0


def test_images_of_the_last_episode_are_not_taken_into_the_next(make_worker, images):
    worker, policy = make_worker(lockstep=False)
    worker.see(images, stamps_of(0), stamp_of(0))
    worker.start(lambda: images, stamps_of(0))
    policy.begin_episode(2, max_steps=50)
    worker.begin()
    worker._thread.submit(int).result()  # after what was under way
    worker.collect(stamp_of(20))
    assert worker.due
    assert worker.age_ms(stamp_of(20)) == -1


# -- the pipeline ---------------------------------------------------------------------------


def camera_period(tmp_path, mode: str, learner: dict | None = None, **given: str) -> int:
    config = graph.write_config(tmp_path, learner=learner or {})
    output = str(tmp_path / "new")
    built = pipeline.build(mode, {"config": str(config), "output": output} | given)
    periods = {n.name: n.parameters.get("camera_period_steps") for n in built.nodes}
    assert periods["so101_sim"] == periods["reward"]
    return periods["so101_sim"]


def test_the_simulator_renders_whenever_a_plan_or_tokens_are_due(tmp_path):
    assert camera_period(tmp_path, "finetune") == 50
    assert camera_period(tmp_path, "finetune", VISION | {"vision_period_steps": 15}) == 5
    assert camera_period(tmp_path, "finetune", VISION, camera_period_steps="1") == 1
    assert camera_period(tmp_path, "evaluate", VISION) == 50  # of the base alone


def test_an_evaluation_renders_as_the_checkpoint_needs_it(tmp_path, vision):
    weights = ResidualActorCritic(vision).state_dict()
    save_checkpoint(tmp_path / "run" / "checkpoints", vision, weights, {}, {"version": 3}, {})
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "000003"):
        assert camera_period(tmp_path, "evaluate", residual_checkpoint=str(folder)) == 2


def test_a_period_that_is_none_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="vision_period_steps: expected a whole number, 1 or mor"):
        camera_period(tmp_path, "finetune", VISION | {"vision_period_steps": 0})


def test_the_period_that_no_config_names_is_the_residuals_own():
    assert ResidualConfig({"state": 6}, 6).vision_period_steps == image_period.VISION_PERIOD_STEPS
