"""A thread that waits in real time is an ordinary one while it spins."""

import os
import threading

import pytest

from residual_smolvla_ros.robots.realtime import RealtimeThread

pytestmark = pytest.mark.realtime


def in_a_thread(function):
    """Return what a function returns in a thread of its own: this one stays ordinary."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def policies(priority: int) -> tuple[str, list[int]]:
    thread = RealtimeThread(priority)
    seen = [os.sched_getscheduler(0)]
    with thread.paused():
        seen.append(os.sched_getscheduler(0))
    return thread.error, [*seen, os.sched_getscheduler(0)]


def test_it_is_given_up_for_a_pause_only():
    error, seen = in_a_thread(lambda: policies(1))
    if error:
        pytest.skip(f"real-time scheduling is not allowed here: {error}")
    assert seen == [os.SCHED_FIFO, os.SCHED_OTHER, os.SCHED_FIFO]


@pytest.mark.parametrize("priority", [0, 1000])
def test_without_it_all_goes_on(priority):
    error, seen = in_a_thread(lambda: policies(priority))
    assert seen == [os.SCHED_OTHER] * 3
    assert bool(error) == (priority > 0)
