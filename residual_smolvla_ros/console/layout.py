"""What a console consists of: cameras, robot and buttons."""

from dataclasses import dataclass

from residual_smolvla_ros.records import LABELS

# Of the robots only the bridge waits for a person to set the scene.
BRIDGE = "so101_bridge"
HOLD, RELEASE = "hold", "release"
START, STOP = "start", "stop"
SCENE = "scene"
TAKE_OVER, GIVE_BACK = "takeover", "giveback"


@dataclass(frozen=True)
class Layout:
    """Cameras by topic name, the robot's node, its control rate in Hz."""

    cameras: tuple[str, ...]
    robot: str
    rate_hz: float

    @property
    def held_mode(self) -> str:
        """The mode of a robot that stays until it is released; the bridge knows a lesser one."""
        return "latched hold" if self.robot == BRIDGE else "hold"

    @property
    def services(self) -> dict[str, str]:
        """The service behind each button."""
        names = {HOLD: f"{self.robot}/hold", RELEASE: f"{self.robot}/release"}
        names |= {name: f"episode/{name}" for name in (START, STOP, *LABELS)}
        if self.robot == BRIDGE:
            names[SCENE] = "reset_environment/done"
        return names | {TAKE_OVER: "intervention/start", GIVE_BACK: "intervention/stop"}
