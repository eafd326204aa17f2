"""The learner on another host: a cable that loses packets and is cut for 10 s costs no episode."""

import json
import os
import sys
import time
from pathlib import Path

import fleet_peer
import pytest
from wire import Wire, missing_right

from residual_smolvla_ros import pipeline

DOMAIN = 113
CUT_S = 10.0
TIMEOUT_S = 120.0  # most of it to load torch beside other tests
EPISODES = 4 + 8 + 4
MISSING = missing_right()


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_a_lossy_cable_that_is_cut_for_10_s_costs_no_finished_episode(tmp_path):
    """Two arms are in the middle of training episodes when their learner is out of reach."""
    environment = os.environ | pipeline.environment(discovery="subnet")
    environment |= {"ROS_DOMAIN_ID": str(DOMAIN)}
    shared = {"output": str(tmp_path), "robots": ["arm1", "arm2"], "period_s": 0.05}
    file = tmp_path / "episodes.jsonl"
    with Wire() as wire:
        wire.loss = 0.05
        for host, own in enumerate(({"learner": True, "arms": []},
                                    {"learner": False, "arms": ["arm1", "arm2"]})):  # fmt: skip
            command = [sys.executable, fleet_peer.__file__, json.dumps(shared | own)]
            log = (tmp_path / f"host{host}.log").open("w")
            wire.start(host, command, env=environment, stderr=log)
        until(lambda: phases(file).count("train") >= 2, wire)
        wire.is_cut = True
        time.sleep(1.0)  # for what is on its way
        before = file.read_text()
        time.sleep(CUT_S - 1.0)
        assert file.read_text() == before  # it was a cut
        wire.is_cut = False
        until(lambda: wire.processes[0].poll() is not None, wire)
        assert all(wire.passed)
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({(o["phase"], o["index"]) for o in found}) == len(found) == EPISODES
    lost = json.loads((tmp_path / "lost.json").read_text())
    assert {arm: lost[f"{arm}/lost"] for arm in shared["robots"]} == {"arm1": "0", "arm2": "0"}
    assert sum(int(lost[f"{arm}/episodes"]) for arm in shared["robots"]) == 8


def phases(file: Path) -> list[str]:
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["phase"] for line in lines]


def until(condition, wire: Wire) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        assert not wire.processes[1].poll()
        time.sleep(0.05)
