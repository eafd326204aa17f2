"""A node with a lifecycle: configured, activated, deactivated and cleaned up as ROS 2 defines it.

https://design.ros2.org/articles/node_lifecycle.html
"""

from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn

from residual_smolvla_ros.nodes.common import PipelineNode

END_S = 0.5
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class ManagedNode(LifecycleNodeMixin, PipelineNode):
    """A node that others configure and activate, or that does so itself at its start.

    Subclasses override `configure`, `activate`, `deactivate` and `release`. With the parameter
    `managed` the node waits for transitions; else it has made the first two when it is made, and
    what `configure` raises goes through.
    """

    def __init__(self, name: str, **settings):
        PipelineNode.__init__(self, name, **settings)
        LifecycleNodeMixin.__init__(self)
        self.configured = self.active = False
        self._error: Exception | None = None
        self._own = self._entities()
        managed = self.parameter(
            "managed", False, "wait to be configured and activated, as by a launch file"
        )
        if not managed:
            for trigger in (self.trigger_configure, self.trigger_activate):
                if trigger() is not SUCCESS:
                    raise self._error

    # -- what a node does -------------------------------------------------------------------

    def configure(self) -> None:
        """Read parameters, load and open what is needed, and create topics and services.

        Raises ValueError with one line where that cannot be.
        """

    def activate(self) -> None:
        """Begin to work."""

    def deactivate(self) -> None:
        """Stop working, and keep what was configured."""

    def release(self) -> None:
        """Let go of what `configure` opened; it may have stopped half way."""

    # -- transitions, as rclpy calls them ---------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Configure; the node is as before where that fails."""
        done = self._try(self.configure)
        self.configured = done is SUCCESS
        if self.configured:
            self._error = None
        else:
            self._let_go()
        return done

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Activate."""
        done = self._try(self.activate)
        self.active = done is SUCCESS
        return done

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Deactivate."""
        self.active = False
        return self._try(self.deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of all that was configured."""
        return self._try(self._let_go)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of all, and end the process once the answer is on its way."""
        self.active = False
        done = self._try(self._let_go)
        self.create_timer(END_S, self._end)
        return done

    def _try(self, do: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            do()
        except Exception as error:  # rclpy would swallow it
            self._error = error
            if self.get_parameter("managed").value:
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                self.get_logger().error(f"{kind}{error}")
            return FAILURE
        return SUCCESS

    def _let_go(self) -> None:
        self.configured = False
        self.release()
        for destroy, entities in self._entities().items():
            for entity in entities - self._own[destroy]:
                destroy(entity)

    def _entities(self) -> dict[Callable, set]:
        """Return what is created on the node, by what destroys it."""
        return {
            self.destroy_timer: set(self.timers),
            self.destroy_subscription: set(self.subscriptions),
            self.destroy_publisher: set(self.publishers),
            self.destroy_service: set(self.services),
            self.destroy_client: set(self.clients),
            self.destroy_guard_condition: set(self.guards),
        }

    def told_status(self) -> tuple[int, str, dict[str, str]]:
        """Return what /diagnostics is told: also that the node does not work."""
        if not self.configured:
            return DiagnosticStatus.WARN, "unconfigured", {}
        level, message, values = self.status()
        if not self.active:
            level, message = max(level, DiagnosticStatus.WARN), f"inactive; {message}"
        return level, message, values

    def _end(self) -> None:
        # What could not be configured has failed.
        raise SystemExit(1 if self._error else 0)

    def close(self) -> None:
        """Release what the node holds; called once, after the last callback."""
        self.release()
