"""LeRobot's own control loops on the simulated arm whose time runs on; for control_loop.py.

    python benchmarks/lerobot_loops.py rtc --delay-ms 370 --episodes 5 --output account.json

`sync` and `rtc` are those of lerobot-rollout, `async` is the robot client with a policy server in a
process of its own. Only what is named here is put around them: a plan takes `--delay-ms` at least,
and the time of the observation that it was made from is noted when it takes over.
"""

import argparse
import json
import logging
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
import time
from concurrent import futures
from dataclasses import asdict
from pathlib import Path

import torch
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot_arm import SimArm, SimArmConfig

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.learning.schedule import HELD_OUT_SEED
from residual_smolvla_ros.robots.simulation import TASK

FPS = 30


def slow_down(delay_s: float, on_start=lambda: None, on_end=lambda: None) -> None:
    """Let each of SmolVLA's plans take so long; call around it."""
    plan = SmolVLAPolicy._get_action_chunk

    def slow(self, *args, **kwargs):
        start = time.perf_counter()
        on_start()
        chunk = plan(self, *args, **kwargs)
        time.sleep(max(0.0, start + delay_s - time.perf_counter()))
        on_end()
        return chunk

    SmolVLAPolicy._get_action_chunk = slow


def play_rollout(kind: str, delay_s: float, seeds: list[int]) -> list:
    """Return the accounts of episodes with lerobot-rollout's loop, `sync` or `rtc`."""
    from lerobot.policies.rtc.action_queue import ActionQueue
    from lerobot.rollout import RolloutConfig, build_rollout_context, create_strategy
    from lerobot.rollout.inference import RTCInferenceConfig, SyncInferenceConfig

    sys.argv = [sys.argv[0], f"--policy.path={DEMO_CHECKPOINT}"]  # where LeRobot looks for it
    inference = RTCInferenceConfig() if kind == "rtc" else SyncInferenceConfig()
    config = RolloutConfig(robot=SimArmConfig(), inference=inference, fps=FPS, task=TASK)
    done = threading.Event()
    context = build_rollout_context(config, done)
    arm: SimArm = context.hardware.robot_wrapper.inner
    arm.on_done = done.set
    seen = []

    def take_over() -> None:
        arm.planned_at = seen[-1]

    slow_down(
        delay_s,
        lambda: seen.append(arm._observed_at),
        take_over if kind == "sync" else lambda: None,
    )
    merge = ActionQueue.merge

    def merge_and_note(self, *args, **kwargs):
        take_over()
        return merge(self, *args, **kwargs)

    ActionQueue.merge = merge_and_note
    accounts = []
    for seed in seeds:
        arm.begin(seed)
        done.clear()
        strategy = create_strategy(config.strategy)
        strategy.setup(context)
        strategy.run(context)
        context.policy.inference.stop()
        accounts.append(arm.end())
    arm.disconnect()
    return accounts


def serve(port: int, delay_s: float) -> None:
    """Run LeRobot's policy server."""
    import grpc
    from lerobot.async_inference.configs import PolicyServerConfig
    from lerobot.async_inference.policy_server import PolicyServer
    from lerobot.transport import services_pb2_grpc

    slow_down(delay_s)
    logging.disable(logging.INFO)
    config = PolicyServerConfig(port=port, fps=FPS, inference_latency=0.0)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    services_pb2_grpc.add_AsyncInferenceServicer_to_server(PolicyServer(config), server)
    server.add_insecure_port(f"{config.host}:{port}")
    server.start()
    server.wait_for_termination()


def play_async(delay_s: float, seeds: list[int], chunk: int) -> list:
    """Return the accounts of episodes with LeRobot's policy server and robot client."""
    from queue import Queue

    from lerobot.async_inference.configs import RobotClientConfig
    from lerobot.async_inference.robot_client import RobotClient
    from lerobot.transport import services_pb2

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    server = context.Process(target=serve, args=(port, delay_s), daemon=True)
    server.start()
    logging.disable(logging.INFO)
    client = RobotClient(
        RobotClientConfig(
            policy_type="smolvla",
            pretrained_name_or_path=str(DEMO_CHECKPOINT),
            robot=SimArmConfig(),
            actions_per_chunk=chunk,
            task=TASK,
            server_address=f"localhost:{port}",
            fps=FPS,
            aggregate_fn_name="latest_only",
        )
    )
    arm: SimArm = client.robot
    aggregate = client._aggregate_action_queues

    def aggregate_and_note(actions, function=None):
        aggregate(actions, function)
        if actions:
            arm.planned_at = time.monotonic() - (time.time() - actions[0].get_timestamp())

    client._aggregate_action_queues = aggregate_and_note
    end = time.monotonic() + 60
    while not client.start():  # until the server listens
        if time.monotonic() > end:
            raise SystemExit("the policy server did not come up")
    arm.on_done = client.shutdown_event.set
    accounts = []
    for seed in seeds:
        client.stub.Ready(services_pb2.Empty())  # empties the server's queue
        client.action_queue, client.latest_action, client.action_chunk_size = Queue(), -1, -1
        client.must_go.set()
        client.start_barrier.reset()
        arm.begin(seed)
        client.shutdown_event.clear()
        receiver = threading.Thread(target=client.receive_actions, daemon=True)
        receiver.start()
        client.control_loop(TASK)
        receiver.join()
        accounts.append(arm.end())
    client.stop()
    server.terminate()
    server.join()
    return accounts


def main() -> None:
    """Play and write the accounts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("loop", choices=["sync", "rtc", "async"])
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    output = options.output.resolve()
    torch.set_num_threads(1)
    seeds = [HELD_OUT_SEED + number for number in range(options.episodes)]
    delay_s = options.delay_ms / 1e3
    with tempfile.TemporaryDirectory() as folder:
        # The checkpoint names its VLM's folder relative to itself, and LeRobot looks for it from
        # where it is started, which is where it writes its logs too.
        os.chdir(folder)
        Path("vlm").symlink_to(DEMO_CHECKPOINT / "vlm")
        if options.loop == "async":
            chunk = json.loads((DEMO_CHECKPOINT / "config.json").read_text())["n_action_steps"]
            accounts = play_async(delay_s, seeds, chunk)
        else:
            accounts = play_rollout(options.loop, delay_s, seeds)
    output.write_text(json.dumps([asdict(account) for account in accounts]))


if __name__ == "__main__":
    main()
