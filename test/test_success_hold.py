"""When estimates count as success, and when images are looked at."""

import pytest

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.success.hold import SuccessHold
from residual_smolvla_ros.success.sampling import ImageClock

MS = 1_000_000


def held(probabilities, period_ms: int = 100, threshold: float = 0.9, hold_s: float = 0.3):
    hold = SuccessHold(threshold, hold_s)
    return [hold.update(i * period_ms * MS, p) for i, p in enumerate(probabilities)]


def test_one_good_frame_is_no_success():
    assert held([0.1, 0.99, 0.1, 0.99, 0.1]) == [False] * 5


def test_success_comes_once_the_probability_has_held():
    assert held([0.95, 0.9, 0.92, 0.95]) == [False, False, False, True]


def test_a_dip_starts_the_time_anew():
    assert held([0.95, 0.95, 0.95, 0.89, 0.95, 0.95, 0.95, 0.95]) == [False] * 7 + [True]


def test_the_time_is_that_of_the_images():
    """As many predictions at 30 Hz cover a tenth of the time that they cover at 3 Hz."""
    assert held([0.95] * 4, period_ms=33) == [False] * 4
    assert held([0.95] * 4, period_ms=330) == [False, True, True, True]


def test_without_a_hold_time_the_first_good_frame_counts():
    assert held([0.5, 0.95], hold_s=0.0) == [False, True]


def test_an_episode_does_not_begin_with_what_the_last_one_held():
    hold = SuccessHold(0.9, 0.3)
    hold.update(0, 0.95)
    hold.reset()
    assert not hold.update(400 * MS, 0.95)


@pytest.mark.parametrize(
    ("threshold", "hold_s", "message"),
    [
        (0.0, 0.3, "threshold: expected a number above 0 and at most 1, found 0.0"),
        (1.5, 0.3, "threshold: expected a number above 0 and at most 1, found 1.5"),
        (float("nan"), 0.3, "threshold: .* found nan"),
        (0.9, -1.0, "hold_s: expected 0 or more seconds, found -1.0"),
        (0.9, float("inf"), "hold_s: expected 0 or more seconds, found inf"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(threshold, hold_s, message):
    with pytest.raises(ConfigError, match=message):
        SuccessHold(threshold, hold_s)


def stamps_taken(clock: ImageClock, stamps_ms, cameras=("front",)) -> list[float]:
    """Return the stamps in ms of the sets taken from images that all cameras send."""
    taken = []
    for stamp in stamps_ms:
        for camera in cameras:
            clock.see(camera, round(stamp * MS), 0.0)
        if (due := clock.take()) is not None:
            taken.append(due / MS)
    return taken


def test_the_rate_is_kept_with_cameras_that_jitter():
    """30 Hz, each image some ms early or late: still one set in 200 ms, not in 233."""
    stamps = [1000 + i * 100 / 3 + (-1) ** i * 3 for i in range(300)]
    assert len(stamps_taken(ImageClock(["front"], 5.0), stamps)) == 50


def test_a_set_waits_for_every_camera_and_bears_the_oldest_stamp():
    clock = ImageClock(["front", "wrist"], 5.0)
    clock.see("front", 30 * MS, 0.0)
    assert clock.take() is None
    clock.see("wrist", 20 * MS, 0.0)
    assert clock.take() == 20 * MS
    assert clock.take() is None


def test_images_of_the_last_episode_do_not_count():
    """Its last image shows the task done; the next episode must not begin with that."""
    clock = ImageClock(["front", "wrist"], 5.0)
    stamps_taken(clock, [0, 200], ["front", "wrist"])
    clock.start(1.0)
    clock.see("front", 1000 * MS, 1.0)
    assert clock.take() is None
    clock.see("wrist", 1010 * MS, 1.0)
    assert clock.take() == 1000 * MS


def test_a_gap_is_not_made_up_for():
    """After a pause one set is due, not all that were missed."""
    assert stamps_taken(ImageClock(["front"], 5.0), [0, 2000, 2033, 2066]) == [0, 2000]


def test_a_silent_camera_is_told_and_holds_no_other_up():
    clock = ImageClock(["front", "wrist"], 5.0)
    clock.start(10.0)
    clock.see("front", 0, 12.5)
    assert clock.silent(13.0, 2.0) == {"wrist": 3.0}
    assert clock.silent(11.0, 2.0) == {}


@pytest.mark.parametrize("rate", [0.0, -5.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ConfigError, match="rate_hz: expected a rate above 0"):
        ImageClock(["front"], rate)
