"""Node `console`: a web page to watch a session on, to label it, and to hold the arm.

ROS runs in the main thread, the page's server in another one. What comes often (images, states,
steps, rewards) is only subscribed to while a page is in view, and best effort: nobody waits for
the console.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import Log
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from residual_smolvla_ros.console.layout import GIVE_BACK, HOLD, TAKE_OVER, Layout
from residual_smolvla_ros.console.server import ConsoleServer, Picture
from residual_smolvla_ros.console.state import ERROR, WARN, ConsoleState
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.nodes.common import LATCHED_QOS, PipelineNode
from residual_smolvla_ros.nodes.common import main as run
from residual_smolvla_ros.nodes.parts.console_images import CameraViews
from residual_smolvla_ros.nodes.parts.console_jog import JogPublisher
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.records import EPISODE_EVENT, REWARD, STEP, Record
from residual_smolvla_ros.reporting.results import read_outcomes

# Nobody keeps anything for the console, and it keeps up or misses something.
WATCH_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
# A page that has not been in view for so long is not being looked at.
LOOK_S = 2.0
ANSWER_S = 5.0
# Severities of rcl_interfaces/Log, whose constants are bytes or numbers, as the build has it.
LOG_WARN, LOG_ERROR = 30, 40
ROBOTS = ("so101_bridge", "so101_sim")


class ConsoleNode(PipelineNode):
    """Show topics on a page; call services for its buttons."""

    def __init__(self):
        super().__init__("console")
        host = self.parameter("host", "127.0.0.1", "address to listen on; others need a token")
        port = self.parameter("port", 8080, About("port to listen on; 0: any free one", 0, 65535))
        # `ros2 param get` and `dump` have no business with it.
        token = self.parameter(
            "token", "", About("what a browser must give: http://.../?token=...", hidden=True)
        )
        output = self.parameter("output", "", "folder of the run, for what was before this start")
        rate = self.parameter(
            "rate_hz", 30.0, About("control rate of the robot, to tell the time by", above=0)
        )
        cameras = self.parameter("cameras", ["front", "wrist"], "cameras to show, by topic name")
        robot = self.parameter("robot", ROBOTS[0], About("the robot's node", choices=ROBOTS))
        jog_speed = self.parameter(
            "jog_speed", 0.3, About("speed of a joint's buttons, in rad/s", above=0)
        )
        outcomes = read_outcomes(Path(output)) if output else []
        self._layout = Layout(tuple(cameras), robot, rate)
        self._state = ConsoleState(robot, outcomes)
        self._views = CameraViews(self, self._layout.cameras)
        self._jog = JogPublisher(self, self._state, jog_speed)
        self.counts |= {"pictures": 0, "calls": 0}  # made here, counted by the server's thread
        self._looked_at = -LOOK_S
        self._streams: list = []
        self._asked: deque[Callable[[], None]] = deque()
        self._server = ConsoleServer(host, port, token, self._layout, self._state, self)

        self._buttons = {
            action: self.create_client(Trigger, name)
            for action, name in self._layout.services.items()
        }
        self.record_subscription(EPISODE_EVENT, "episode/event", self._on_event)
        self.create_subscription(Bool, "episode/active", self._on_active, LATCHED_QOS)
        self.create_subscription(String, "episode/state", self._on_episode_state, LATCHED_QOS)
        self.create_subscription(Bool, "intervention/active", self._on_intervention, LATCHED_QOS)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.create_subscription(Log, "/rosout", self._on_log, 50)
        self._wake = self.create_guard_condition(self._do_asked)
        self.create_timer(0.25, self._follow_viewers)
        self._server.start()
        shown = f"[{host}]" if ":" in host else host
        hint = "/?token=..." if token else "/"
        self.get_logger().info(f"console: http://{shown}:{self._server.port}{hint}")

    # -- what is always taken ---------------------------------------------------------------

    def _on_event(self, record: Record) -> None:
        event, label = record.metadata["event"], record.metadata["label"]
        try:
            plan = EpisodePlan.from_json(record.metadata["plan"])
        except ValueError as error:
            self.refuse("episode/event", error)
            return
        if event == "prepare":
            self._state.prepare(plan)
        elif event == "end":
            steps, reason = record.metadata["steps"], record.metadata["reason"]
            self._state.end(plan, reason, record.metadata["success"], label, steps)
        elif event == "label":
            self._state.set_label(plan.episode, label)

    def _on_active(self, message: Bool) -> None:
        self._state.set_active(message.data)

    def _on_episode_state(self, message: String) -> None:
        self._state.set_episode_state(message.data)

    def _on_intervention(self, message: Bool) -> None:
        self._state.set_intervention(message.data)
        if not message.data:
            self._jog.end()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.hardware_id == "residual_smolvla_ros":
                values = {value.key: value.value for value in status.values}
                self._state.report(
                    status.name, int.from_bytes(status.level), status.message, values
                )

    def _on_log(self, message: Log) -> None:
        if message.level >= LOG_WARN:
            level = WARN if message.level < LOG_ERROR else ERROR
            self._state.log(message.name, level, message.msg)

    # -- what is taken while a page is in view ----------------------------------------------

    def look(self) -> None:
        """Take note that a page is in view."""
        self._looked_at = time.monotonic()

    def _follow_viewers(self) -> None:
        looked_at = time.monotonic() - self._looked_at < LOOK_S
        if looked_at and not self._streams:
            self._streams = [
                self.create_subscription(JointState, "joint_states", self._on_joints, WATCH_QOS),
                self._action_subscription("base"),
                self._action_subscription("residual"),
                self.record_subscription(STEP, "policy/step", self._on_step, WATCH_QOS),
                self.record_subscription(REWARD, "reward", self._on_reward, WATCH_QOS),
            ]
        elif not looked_at and self._streams and not self._jog.active:
            for subscription in self._streams:
                self.destroy_subscription(subscription)
            self._streams = []
            self._state.forget_stream()
        self._views.follow(looked_at)

    def _action_subscription(self, kind: str):
        def receive(message: JointState) -> None:
            self._state.set_action(kind, message.name, message.position)

        return self.create_subscription(JointState, f"policy/{kind}_action", receive, WATCH_QOS)

    def _on_joints(self, message: JointState) -> None:
        self._state.set_joints(message.name, message.position)

    def _on_step(self, record: Record) -> None:
        self._state.set_tick(record.metadata["tick"] + (not record.metadata["final"]))

    def _on_reward(self, record: Record) -> None:
        data = record.metadata
        terms = record["terms"].tolist()
        self._state.add_reward(
            float(record["reward"]), data["names"], terms, data["missing"], data["label"]
        )

    # -- from the page's server, in its thread ----------------------------------------------

    def picture(self, camera: str, seen: int) -> Picture | None:
        """Return a camera's newest frame if it is not the one of the stamp `seen`, in ns."""
        picture = self._views.picture(camera, seen)
        if picture is not None:
            self.tally("pictures")
        return picture

    async def call(self, action: str) -> tuple[bool, str]:
        """Call the service behind a button; return its answer."""
        self.tally("calls")
        if action == HOLD:
            self._jog.rest()
        if action == TAKE_OVER and (reason := await self._begin_jog()):
            success, message = False, reason
        else:
            success, message = await self._trigger(action)
        if action in (TAKE_OVER, GIVE_BACK) and success == (action == GIVE_BACK):
            self._in_ros(self._jog.end)
        return success, message

    def jog(self, joint: str, direction: int) -> None:
        """Move a joint for a moment; raise ValueError where the console does not drive."""
        self._jog.press(joint, direction)

    async def _begin_jog(self) -> str:
        """Publish targets unless a leader arm does; return why that cannot be, or nothing."""
        if self._jog.other_sources():
            return ""
        self.look()  # the joint positions are needed
        self._in_ros(self._jog.begin)
        return await self._jog.until_heard()

    async def _trigger(self, action: str) -> tuple[bool, str]:
        client = self._buttons[action]
        name = self._layout.services[action]
        if not client.service_is_ready():
            return False, f"expected a service {name}, found none: is its node running?"
        loop = asyncio.get_running_loop()
        answered = asyncio.Event()
        future = client.call_async(Trigger.Request())
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(answered.set))
        try:
            await asyncio.wait_for(answered.wait(), ANSWER_S)
        except TimeoutError:
            client.remove_pending_request(future)
            return False, f"expected an answer of {name}, found none in {ANSWER_S:g} s"
        response = future.result()
        return response.success, response.message

    def _in_ros(self, action: Callable[[], None]) -> None:
        """Do something in the ROS thread: only there are publishers made and destroyed."""
        self._asked.append(action)
        self._wake.trigger()

    def _do_asked(self) -> None:
        while self._asked:
            self._asked.popleft()()

    def status(self):
        """Report how many pages are connected, and whether one is looked at."""
        values = {
            "clients": str(self._server.clients),
            "in_view": str(bool(self._streams)),
            "images": str(self._views.subscribed),
            "jogging": str(self._jog.active),
        }
        return DiagnosticStatus.OK, f"serving on port {self._server.port}", values

    def close(self) -> None:
        """End the page's server."""
        self._server.stop()


def main(args=None) -> None:
    """Entry point of the executable."""
    run(ConsoleNode, args)


if __name__ == "__main__":
    main()
