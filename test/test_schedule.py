"""The order of a run's episodes, and the seeds and weights that they ask for.

Every episode has ten steps here and an update takes two episodes, so 40 steps are two updates.
"""

import dataclasses

import pytest

from residual_smolvla_ros.learning.schedule import (
    HELD_OUT_SEED,
    TRAINING_SEED,
    VALIDATION_SEED,
    EpisodePlan,
    Outcome,
    Schedule,
)

STEPS = 10
HELD_OUT = ("base", "residual", "clip_base", "clip_residual")


def make_schedule(**changes) -> Schedule:
    settings = {
        "seed": 0,
        "max_steps": STEPS,
        "eval_episodes": 2,
        "total_steps": 40,
        "episodes_per_update": 2,
        "warmup_updates": 1,
        "validation_episodes": 1,
        "validation_every": 1,
    }
    return Schedule(**settings | changes)


def make_outcome(plan: EpisodePlan, success: bool = False, version: int | None = None) -> Outcome:
    return Outcome(
        episode=plan.episode,
        phase=plan.phase,
        index=plan.index,
        seed=plan.seed,
        weights_version=plan.weights_version if version is None else version,
        steps=STEPS,
        success=success,
        episode_return=0.0,
        reason="truncated",
        wall_s=0.0,
    )


def play(schedule: Schedule, solved=(), limit: int = 1000) -> list[EpisodePlan]:
    """Play a schedule to its end; `solved` are the (phase, index) that succeed."""
    plans = []
    while len(plans) < limit and (plan := schedule.next()):
        plans.append(plan)
        schedule.record(make_outcome(plan, (plan.phase, plan.index) in solved))
    return plans


def phases(plans: list[EpisodePlan]) -> list[str]:
    return [plan.phase for plan in plans]


def of(plans: list[EpisodePlan], *names: str) -> list[EpisodePlan]:
    return [plan for plan in plans if plan.phase in names]


def test_the_phases_follow_each_other_in_order():
    assert phases(play(make_schedule())) == [
        *["base"] * 2,
        *["warmup"] * 2,
        "validation",
        *["train"] * 2,
        *["residual"] * 2,
        "clip_base",
        "clip_residual",
    ]


def test_episodes_are_numbered_without_a_gap():
    plans = play(make_schedule())
    assert [plan.episode for plan in plans] == list(range(1, len(plans) + 1))


def test_the_weights_asked_for_are_those_of_the_last_whole_update():
    plans = play(make_schedule())
    versions = {name: {plan.weights_version for plan in of(plans, name)} for name in phases(plans)}
    assert versions == {
        "base": {-1},
        "warmup": {0},
        "validation": {1},
        "train": {1},
        "residual": {2},
        "clip_base": {2},
        "clip_residual": {2},
    }


def test_only_training_explores_and_only_base_and_warm_up_act_without_residual():
    plans = play(make_schedule())
    assert {plan.phase for plan in plans if plan.explore} == {"train"}
    without = {plan.phase for plan in plans if not plan.use_residual}
    assert without == {"base", "warmup", "clip_base"}
    assert {plan.phase for plan in plans if plan.is_training} == {"warmup", "train"}
    assert {plan.phase for plan in plans if plan.spectator} == {"clip_base", "clip_residual"}


def test_base_and_residual_meet_the_same_scenes():
    plans = play(make_schedule(eval_episodes=5))
    base = [(plan.index, plan.seed) for plan in of(plans, "base")]
    assert base == [(index, HELD_OUT_SEED + index) for index in range(5)]
    assert base == [(plan.index, plan.seed) for plan in of(plans, "residual")]


def test_seeds_of_training_validation_and_evaluation_never_overlap():
    seen = [set(range(10_000))]  # the demonstrations that the base was cloned from
    for seed in (0, 1, 2, 1000):
        plans = play(make_schedule(seed=seed, total_steps=2000, validation_episodes=3))
        training = [plan.seed for plan in of(plans, "warmup", "train")]
        assert len(set(training)) == len(training) == 200
        seen.append(set(training))
    seen.append({plan.seed for plan in of(plans, *HELD_OUT)})
    seen.append({plan.seed for plan in of(plans, "validation")})
    assert sum(len(seeds) for seeds in seen) == len(set.union(*seen))


def test_the_longest_run_stays_within_its_range_of_seeds():
    assert HELD_OUT_SEED < VALIDATION_SEED < TRAINING_SEED
    assert VALIDATION_SEED - HELD_OUT_SEED >= 1_000_000
    last = make_schedule(training_episodes=TRAINING_SEED - 2, total_steps=1, eval_episodes=0).next()
    first = make_schedule(seed=1, eval_episodes=0).next()
    assert last.seed < first.seed


@pytest.mark.parametrize(
    ("limits", "episodes"),
    [
        ({"total_steps": 40}, 4),
        ({"total_steps": 41}, 6),
        ({"total_steps": 25}, 4),
        ({"total_steps": 1000, "episode_limit": 3}, 4),
        ({"total_steps": 1000, "episode_limit": 4}, 4),
        ({"total_steps": 20, "episode_limit": 100}, 2),
    ],
)
def test_training_ends_with_a_whole_update(limits, episodes):
    plans = play(make_schedule(**limits))
    assert len(of(plans, "warmup", "train")) == episodes
    assert of(plans, "residual")[0].weights_version == episodes // 2


def test_validation_comes_every_nth_update_from_the_end_of_the_warm_up():
    plans = play(
        make_schedule(total_steps=160, warmup_updates=2, validation_every=3, validation_episodes=2)
    )
    validation = of(plans, "validation")
    assert [plan.weights_version for plan in validation] == [2, 2, 5, 5]
    # The same scenes each time, so that the points of a curve can be compared.
    assert [plan.seed - VALIDATION_SEED for plan in validation] == [0, 1, 0, 1]


def test_validation_every_0_is_never():
    assert not of(play(make_schedule(validation_every=0)), "validation")


@pytest.mark.parametrize("played", range(11))
def test_a_resumed_run_plays_what_the_first_one_had_left(played):
    """Training goes on from the last whole update: that is where the checkpoint is."""
    whole = play(make_schedule(eval_episodes=2))
    before = whole[:played]
    training = len(of(before, "warmup", "train")) // 2 * 2
    kept = [p for p in before if not p.is_training or p.index < training]
    resumed = make_schedule(
        training_episodes=training,
        env_steps=training * STEPS,
        outcomes=[make_outcome(plan) for plan in kept],
    )
    left = [plan for plan in whole if plan not in kept]
    rest = play(resumed)
    unnumbered = [[dataclasses.replace(p, episode=0) for p in plans] for plans in (rest, left)]
    assert unnumbered[0] == unnumbered[1]


def test_a_finished_run_that_is_given_more_steps_is_evaluated_anew():
    schedule = make_schedule()
    play(schedule)
    schedule.total_steps = 60
    assert phases(play(schedule)) == [
        "validation",
        *["train"] * 2,
        *["residual"] * 2,
        "clip_base",
        "clip_residual",
    ]


@pytest.mark.parametrize(
    ("solved", "index"),
    [
        ([], 0),
        ([("base", 1), ("residual", 1)], 0),
        ([("base", 0), ("residual", 0), ("residual", 2), ("residual", 3)], 2),
        ([("base", 3)], 0),
    ],
)
def test_the_clip_shows_the_first_seed_that_only_the_residual_solved(solved, index):
    plans = play(make_schedule(eval_episodes=4), solved)
    clips = of(plans, "clip_base", "clip_residual")
    assert [(plan.index, plan.seed) for plan in clips] == [(index, HELD_OUT_SEED + index)] * 2


def test_the_clip_does_not_go_by_what_older_weights_solved():
    schedule = make_schedule()
    play(schedule, solved=[("residual", 1)])
    schedule.total_steps = 60
    plans = play(schedule)
    assert [plan.index for plan in of(plans, "clip_base", "clip_residual")] == [0, 0]


def test_no_clip_and_no_evaluation_where_none_is_wanted():
    assert not of(play(make_schedule(clip=False)), "clip_base", "clip_residual")
    assert not of(play(make_schedule(eval_episodes=0)), *HELD_OUT)


def test_evaluate_mode_takes_whatever_is_loaded():
    plans = play(make_schedule(total_steps=0))
    names = [*["base"] * 2, *["residual"] * 2, "clip_base", "clip_residual"]
    assert phases(plans) == names
    assert {plan.weights_version for plan in plans} == {-1}
    assert not any(plan.explore for plan in plans)


def test_evaluate_mode_without_a_residual_ends_after_the_base():
    assert phases(play(make_schedule(total_steps=0, evaluate_residual=False))) == ["base", "base"]


def test_a_plan_survives_json_and_what_is_not_one_is_refused():
    plan = play(make_schedule())[-1]
    assert EpisodePlan.from_json(plan.to_json()) == plan
    for text in ('{"speed": 1}', "{}", "[1]", "3", "not json"):
        with pytest.raises(ValueError, match=r"expected|Expecting"):
            EpisodePlan.from_json(text)


def test_upcoming_plans_are_those_that_would_be_played_one_by_one():
    """What is played side by side must not depend on an outcome that is not there yet."""
    one_by_one, batched = play(make_schedule()), []
    schedule = make_schedule()
    while plans := schedule.upcoming(3):
        assert len({(plan.phase, plan.weights_version) for plan in plans}) == 1
        batched += plans
        for plan in plans:
            schedule.record(make_outcome(plan))
    assert batched == one_by_one


def worse_than_base(**changes) -> tuple[Schedule, list[EpisodePlan]]:
    """A schedule whose base solves all, up to the end of a validation that solves nothing."""
    settings = {"eval_episodes": 10, "validation_episodes": 10, "total_steps": 80}
    schedule, plans = make_schedule(**settings | changes), []
    while schedule.verdict is None:
        plans.append(schedule.next())
        schedule.record(make_outcome(plans[-1], success=plans[-1].phase == "base"))
    return schedule, plans


def test_a_rollback_goes_on_with_weights_of_a_new_version_and_no_second_validation():
    schedule, _ = worse_than_base()
    assert schedule.verdict is False
    version = schedule.version
    schedule.roll_back()
    following = schedule.next()
    assert (following.phase, following.weights_version) == ("train", version + 1)


def test_after_a_rollback_the_next_update_is_validated_as_usual():
    schedule, _ = worse_than_base()
    schedule.roll_back()
    while (plan := schedule.next()).phase == "train":
        schedule.record(make_outcome(plan))
    assert plan.phase == "validation"
    assert plan.weights_version == schedule.version


def test_few_failures_by_chance_are_no_reason_to_roll_back():
    schedule, plans = worse_than_base(eval_episodes=3, validation_episodes=2)
    assert plans[-1].phase == "validation"
    assert schedule.verdict is True


def test_off_policy_an_episode_need_not_wait_for_the_update_of_the_one_before():
    schedule = make_schedule(weights_lag=1, validation_every=0, episodes_per_update=1)
    plans = of(play(schedule), "train", "warmup")
    assert [plan.weights_version for plan in plans] == [0, 0, 1, 2]
    validations = [of(play(make_schedule(weights_lag=lag)), "validation") for lag in (0, 1)]
    assert validations[0] == validations[1]  # which must see the newest
    rolled_back, _ = worse_than_base(weights_lag=1)
    rolled_back.roll_back()
    assert rolled_back.next().weights_version == rolled_back.version
