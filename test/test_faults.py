"""A session whose nodes are killed and stopped goes on, loses nothing, and grows nothing."""

import json
import os
import signal
import threading
import time
from collections import defaultdict
from pathlib import Path

import graph
import psutil
import pytest

DOMAIN = 101
STOPPED_S = 1.0
EPISODES = 12


class Usage:
    """Memory (MB), threads and descriptors of each node, again and again, by process id."""

    def __init__(self, process):
        self.seen: dict[tuple[str, int], list[tuple[float, int, int]]] = defaultdict(list)
        self._process, self._over = process, threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._over.wait(0.5):
            for name, pid in graph.children(self._process).items():
                try:
                    node = psutil.Process(pid)
                    found = node.memory_info().rss / 1e6, node.num_threads(), node.num_fds()
                    self.seen[name, pid].append(found)
                except psutil.Error:
                    continue  # it has just ended

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture(scope="module")
def survived(tmp_path_factory) -> tuple[Path, str, Usage]:
    """A run in which the learner dies in an update, the policy in an episode; reward rests."""
    folder = tmp_path_factory.mktemp("faults")
    output, config = folder / "run", graph.write_config(folder)
    process = graph.start(
        DOMAIN, "finetune", config=config, output=output, episodes=EPISODES, eval_episodes=1,
        respawn="true",
    )  # fmt: skip
    usage = None
    try:
        graph.wait_until(lambda: trained(output) >= 2, process)
        os.kill(graph.children(process)["learner"], signal.SIGKILL)  # the update is under way
        graph.wait_until(lambda: trained(output) >= 5, process)
        os.kill(graph.children(process)["policy"], signal.SIGKILL)
        graph.wait_until(lambda: trained(output) >= 6, process)
        usage = Usage(process)
        reward = graph.children(process)["reward"]
        os.kill(reward, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        os.kill(reward, signal.SIGCONT)
        text, _ = process.communicate(timeout=120)
    finally:
        graph.stop(process)
        if usage:
            usage.stop()
    assert process.returncode == 0, text
    return output, text, usage


def trained(output: Path) -> int:
    return len([o for o in outcomes(output) if o["phase"] in ("warmup", "train")])


def outcomes(output: Path) -> list[dict]:
    file = output / "episodes.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [o for o in map(json.loads, lines) if o["label"] != "discard"]


def test_each_node_that_died_came_back_and_no_other_ended(survived):
    _, text, _ = survived
    ended = [line.split()[1] for line in text.splitlines() if "is started again" in line]
    assert ended == ["learner", "policy"]


def test_no_finished_episode_is_lost_and_the_learner_had_each_once(survived):
    output, _, _ = survived
    kept = [o for o in outcomes(output) if o["phase"] in ("warmup", "train")]
    assert [o["index"] for o in kept] == list(range(EPISODES))
    updates = [json.loads(line) for line in (output / "updates.jsonl").open()]
    assert [u["episodes"] for u in updates] == list(range(2, EPISODES + 1, 2))
    assert updates[-1]["env_steps"] == sum(o["steps"] for o in kept)
    assert "were lost" not in (output / "log" / "learner.log").read_text()
    assert (output / "report.html").is_file()


def test_no_node_grows_while_a_session_goes_on(survived):
    """Not by what it takes in each episode: DDS opens a few files for peers that come back."""
    _, _, usage = survived
    for (name, _), looks in usage.seen.items():
        settled = looks[len(looks) // 3 : -2]  # what ends lets go
        memory, threads, descriptors = zip(settled[0], settled[-1], strict=True)
        assert memory[1] < 1.1 * memory[0], name
        assert threads[1] <= threads[0], name
        assert descriptors[1] - descriptors[0] < EPISODES // 2 - 1, name
