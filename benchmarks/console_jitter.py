"""Print what the console costs the control loop, and how long HOLD takes from the click to the arm.

    python benchmarks/console_jitter.py [--seconds 60] [--rounds 3] [--repeats 20]

The real bridge on emulated servos and a process that answers each state, as in `bridge_loop.py`;
two cameras of 640x480 at 30 Hz; the real console, open in headless Chromium on the same machine.
The jitter is measured in turns, so that what else runs meets all alike. HOLD is clicked while the
arm moves; the arm has stopped when the goals of its servos have changed for the last time.
"""

import argparse
import contextlib
import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import rclpy
from bridge_loop import clock_offset, row, start_bridge
from sensor_msgs.msg import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test"))
from browser import Console, Proxy, chromium, wait_until
from robot_graph import HOME, Bridge, Emulator, Peer, isolate

from residual_smolvla_ros.nodes.common import image_qos
from residual_smolvla_ros.nodes.parts.images import to_image_message

DOMAIN = 93
RATE_HZ = 30.0
CAMERAS = ("front", "wrist")
SIZE = (640, 480)
SPEED, ENDS = 0.5, (-1.2, 1.2)
REST_S = 0.4
# A weak mobile connection: bytes/s down and up, s on the way.
SLOW_DOWN, SLOW_UP, SLOW_S = 50_000, 20_000, 0.05


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns without and with")
    parser.add_argument("--repeats", type=int, default=20, help="clicks of each kind")
    parser.add_argument("--cameras", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    isolate(DOMAIN)
    if options.cameras:
        publish_images()
    print(f"{os.cpu_count()} cores, load of the last minute {os.getloadavg()[0]:.1f}, "
          f"{options.rounds} turns of {options.seconds:g} s each, {RATE_HZ:g} Hz")  # fmt: skip
    cameras = subprocess.Popen([sys.executable, __file__, "--cameras"])
    try:
        with tempfile.TemporaryDirectory() as name:
            jitter(Path(name), options.seconds, options.rounds)
        with tempfile.TemporaryDirectory() as name:
            hold(Path(name), options.repeats)
    finally:
        cameras.terminate()
        cameras.wait()


def publish_images() -> None:
    """Publish frames of all cameras until a signal; a subscription stands for the policy's."""
    rclpy.init()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    node = rclpy.create_node("cameras")
    qos = image_qos(lockstep=False)
    publishers = {name: node.create_publisher(Image, f"{name}/image_raw", qos) for name in CAMERAS}
    noise = np.random.default_rng(0).integers(0, 60, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    frames = [np.roll(noise + 90, 8 * k, axis=1) for k in range(30)]
    count = 0

    def publish() -> None:
        nonlocal count
        count += 1
        stamp = node.get_clock().now().to_msg()
        for name, publisher in publishers.items():
            publisher.publish(to_image_message(frames[count % len(frames)], stamp, name))

    for name in CAMERAS:
        node.create_subscription(Image, f"{name}/image_raw", lambda _: None, qos, raw=True)
    node.create_timer(1 / RATE_HZ, publish)
    rclpy.spin(node)


# -- the control loop's jitter ---------------------------------------------------------------------


def jitter(folder: Path, seconds: float, rounds: int) -> None:
    """Print the bridge's jitter without and with the console."""
    without, closed, viewed = kinds = "no console", "console, no page open", "console, page open"
    turns: dict[str, list] = {kind: [] for kind in kinds}
    spent: dict[str, list] = {kind: [] for kind in kinds[1:]}
    frames = []
    with Emulator(folder) as servos:
        servos.calibrate(folder, "arm")
        bridge = start_bridge(folder, servos.port, RATE_HZ)
        try:
            for _ in range(rounds):
                turns[without].append(take(folder, bridge, seconds))
                with started(folder) as console:
                    pid = console.process.pid
                    with spending(pid, spent[closed]):
                        turns[closed].append(take(folder, bridge, seconds))
                    with viewing(console.port) as page, spending(pid, spent[viewed]):
                        before, since = page.evaluate("shown"), time.monotonic()
                        turns[viewed].append(take(folder, bridge, seconds))
                        passed = time.monotonic() - since
                        frames.append((page.evaluate("shown") - before) / passed)
        finally:
            bridge.terminate()
            bridge.wait()
    head("jitter: departure from the period")
    for kind, parts in turns.items():
        row(kind, np.concatenate(parts))
        for index, part in enumerate(parts, 1):
            row(f"    turn {index}", part)
    for kind, shares in spent.items():
        print(f"{kind}: {100 * np.mean(shares):.0f} % of a core")
    print(f"frames shown of all cameras: {np.mean(frames):.1f} /s")


@contextlib.contextmanager
def spending(pid: int, shares: list[float]):
    """Add the share of a core that a process takes meanwhile."""
    process = psutil.Process(pid)
    before, since = sum(process.cpu_times()[:2]), time.monotonic()
    yield
    shares.append((sum(process.cpu_times()[:2]) - before) / (time.monotonic() - since))


def head(name: str) -> None:
    """Print the head of a table."""
    print(f"\n{name:<44}{'median':>9}{'99 %':>9}{'99.9 %':>9}{'max':>9}   ms")


def take(folder: Path, bridge: subprocess.Popen, seconds: float) -> np.ndarray:
    """Return the departures from the period in ms while states are answered for a time."""
    file = folder / "states.json"
    script = Path(__file__).with_name("bridge_loop.py")
    subprocess.run(
        [sys.executable, str(script), "--answer", str(file), "--bridge", str(bridge.pid),
         "--seconds", str(seconds)], check=True
    )  # fmt: skip
    stamps = np.array(json.loads(file.read_text())["stamps"])
    return 1e3 * np.abs(np.diff(stamps) - 1.0 / RATE_HZ)


@contextlib.contextmanager
def started(folder: Path):
    """Start a console."""
    console = Console(folder, cameras=list(CAMERAS))
    try:
        wait_until(lambda: console.url, "a page")
        yield console
    finally:
        console.stop()


@contextlib.contextmanager
def viewing(port: int):
    """Open the page, and wait until it shows frames."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.add_init_script(
            "globalThis.shown = globalThis.clicked = 0;"
            "document.addEventListener('load', (e) => e.target.tagName === 'IMG' && shown++, true);"
            "addEventListener('pointerdown', (event) => {"
            "clicked = performance.timeOrigin + event.timeStamp; }, true);"
        )
        page.goto(f"http://127.0.0.1:{port}")
        page.locator("[data-caption]", has_text="Hz").first.wait_for()
        yield page


# -- HOLD ------------------------------------------------------------------------------------------


class SlowLink(Proxy):
    """A proxy whose connections share a link of limited speed, with a delay, in each direction."""

    def __init__(self, port: int):
        self._lines: list[queue.Queue] = [queue.Queue(), queue.Queue()]
        for line, rate in zip(self._lines, (SLOW_UP, SLOW_DOWN), strict=True):
            threading.Thread(target=self._carry, args=(line, rate), daemon=True).start()
        super().__init__(port)

    def send(self, sink: socket.socket, data: bytes, upward: bool) -> None:
        """Put data in the line."""
        self._lines[not upward].put((time.monotonic() + SLOW_S, sink, data))
        while self._lines[not upward].qsize() > 4:  # full: whoever sends has to wait
            time.sleep(0.005)

    @staticmethod
    def _carry(line: queue.Queue, rate: float) -> None:
        free = 0.0
        while True:
            arrives, sink, data = line.get()
            free = max(free, time.monotonic()) + len(data) / rate
            time.sleep(max(0.0, max(arrives, free) - time.monotonic()))
            with contextlib.suppress(OSError):
                sink.sendall(data)


def hold(folder: Path, repeats: int) -> None:
    """Print the time from a click on HOLD to the last change of the servos' goals."""
    head("HOLD: click to the last change of a goal")
    with Emulator(folder) as servos:
        servos.calibrate(folder, "arm")
        arm = Peer()
        bridge = Bridge(folder, servos.port, max_velocity=[SPEED])
        try:
            arm.until(lambda: arm.states, "the first state")
            with started(folder) as console:
                with viewing(console.port) as page:
                    row("on this machine", clicks(arm, servos, page, repeats))
                with viewing(SlowLink(console.port).port) as page:
                    name = f"slow link, {1e3 * SLOW_S:.0f} ms each way included"
                    row(name, clicks(arm, servos, page, repeats))
                proxy = Proxy(console.port)
                with viewing(proxy.port) as page:
                    proxy.stall()
                    page.locator("#lost").wait_for()
                    row("the page's socket stalled", clicks(arm, servos, page, repeats))
                proxy.close()
        finally:
            bridge.stop()
            arm.close()


def clicks(arm: Peer, servos: Emulator, page, repeats: int) -> np.ndarray:
    """Return the times of so many clicks in ms."""
    return np.array([click(arm, servos, page) for _ in range(repeats)])


def click(arm: Peer, servos: Emulator, page) -> float:
    """Click HOLD while the arm moves; return after how many ms its goals changed last."""
    arm.call("so101_bridge/release")
    pan = arm.position()["shoulder_pan"]
    goal = ENDS[1] if pan < 0 else ENDS[0]
    arm.answer = [goal, *HOME[1:]]
    done = threading.Event()
    # A peer in a thread goes on commanding while this one waits for the browser.
    mover = threading.Thread(target=lambda: arm.until(done.is_set, "the end of a click"))
    servos.writes()
    arm.until(lambda: abs(arm.position()["shoulder_pan"] - pan) > 0.3, "a movement")
    mover.start()
    try:
        page.click("#hold")
        time.sleep(REST_S)
        moment = page.evaluate("clicked") / 1e3
    finally:
        done.set()
        mover.join()
    arm.answer = None
    written = servos.writes()
    changes = [at for (_, before), (at, after) in itertools.pairwise(written) if before != after]
    # Before the click where HOLD met an arm that was just where it had been told to be.
    return max(0.0, 1e3 * (changes[-1] + clock_offset() - moment))


if __name__ == "__main__":
    main()
