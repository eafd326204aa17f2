"""The pipeline as a launch description: what `launch/*.launch.py` start."""

from pathlib import Path

from ament_index_python.packages import get_packages_with_prefixes
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    LogInfo,
    OpaqueCoroutine,
    OpaqueFunction,
    Shutdown,
)
from launch.events.process import ProcessExited
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import ExecutableInPackage

from residual_smolvla_ros import arguments, pipeline, viewing
from residual_smolvla_ros.node_spec import MANAGED
from residual_smolvla_ros.nodes.parts.bring_up import bring_up, is_secured
from residual_smolvla_ros.recording.checks import command as replay
from residual_smolvla_ros.respawning import DELAY_S, Respawning
from residual_smolvla_ros.robots.urdf import so101_urdf
from residual_smolvla_ros.security import enclave

# launch keeps these beside the user's arguments.
_OF_LAUNCH = {
    "emulate_tty",
    "global_params",
    "launch-prefix",
    "launch-prefix-filter",
    "ros_namespace",
    "ros_remaps",
}
_SIGKILL_S = "1"  # after SIGTERM


def describe(mode: str, **defaults: str) -> LaunchDescription:
    """Return the launch description of finetune or evaluate, with other defaults of arguments.

    It refuses unknown arguments, also those of a launch file around it: include it there in a
    `GroupAction(..., forwarding=False)`.
    """
    return _describe(arguments.arguments(mode), _start, mode, defaults=defaults)


def describe_replay() -> LaunchDescription:
    """Return the launch description of a bag that is played, or checked."""
    return _describe(replay.ARGUMENTS, _replay)


def describe_view() -> LaunchDescription:
    """Return the launch description of what a running session is looked at with."""
    return _describe(viewing.ARGUMENTS, _view)


def _describe(wanted, start, *further, defaults: dict | None = None) -> LaunchDescription:
    """Return a description that calls `start` with `further` and with what a person gave."""
    defaults = defaults or {}
    given: dict[str, str] = dict(defaults)

    def note(context: LaunchContext) -> None:
        # Before the defaults are declared: only what a person gave wins over the config.
        given.update(
            {n: v for n, v in context.launch_configurations.items() if n not in _OF_LAUNCH}
        )

    declared = [
        DeclareLaunchArgument(
            argument.name,
            default_value=defaults.get(argument.name, argument.default),
            description=argument.help,
        )
        for argument in wanted
    ]
    started = OpaqueFunction(function=start, args=[*further, given])
    return LaunchDescription([OpaqueFunction(function=note), *declared, started])


def _start(context: LaunchContext, mode: str, given: dict[str, str]) -> list[Action]:
    described = pipeline.build(mode, given)
    respawns = Respawning(described.output, described.values["respawn"])
    nodes = [(spec, _node(spec, described, respawns)) for spec in described.nodes]
    managed = [n for kind in _managed(described) for spec, n in nodes if spec.executable == kind]
    bringing_up = OpaqueCoroutine(coroutine=bring_up, args=[managed])
    start = LogInfo(msg=f"run: {described.output}")
    return [start, *(node for _, node in nodes), *([bringing_up] if managed else [])]


def _managed(described: pipeline.Pipeline) -> tuple[str, ...]:
    """Return the executables that are configured and activated from here, in this order.

    A node that is started again configures itself, and so do nodes under SROS 2.
    """
    return () if described.values["respawn"] or is_secured() else MANAGED


def _replay(context: LaunchContext, given: dict[str, str]) -> list[Action]:
    values = replay.parse(given)

    def end(event: ProcessExited, context: LaunchContext) -> None:
        if event.returncode and not context.is_shutdown:
            raise RuntimeError(f"replay ended with exit code {event.returncode}")

    common = {"additional_env": pipeline.replay_environment(), "output": "screen", "on_exit": end}
    if values["check"]:
        words = [f"{name}:={value}" for name, value in given.items()]
        # Not sys.executable: `ros2` may be of another Python than the one with LeRobot.
        program = ExecutableInPackage("residual-smolvla", pipeline.PACKAGE)
        command = [program, replay.REPLAY, *words]
        return [ExecuteProcess(cmd=command, emulate_tty=True, **common)]
    parameters = {name: _typed(value) for name, value in replay.node_parameters(values).items()}
    return [Node(package=pipeline.PACKAGE, executable="replay", parameters=[parameters], **common)]


def _view(context: LaunchContext, given: dict[str, str]) -> list[Action]:
    values = arguments.parse_values(viewing.ARGUMENTS, given)
    viewing.check_packages(viewing.wanted_packages(values), get_packages_with_prefixes())
    urdf = Path(values["urdf"]).expanduser() if values["urdf"] else so101_urdf()
    folder = pipeline.share_directory() / "config"
    sim_time = {"use_sim_time": values["use_sim_time"]}

    def node(package: str, executable: str, *parameters, **settings) -> Node:
        return Node(package=package, executable=executable, parameters=[sim_time, *parameters],
                    additional_env=pipeline.environment(), output="screen", **settings)  # fmt: skip

    description = ParameterValue(viewing.robot_description(urdf), value_type=str)
    robot = {"robot_description": description}
    nodes = [node("robot_state_publisher", "robot_state_publisher", robot)]
    if values["rviz"]:
        file = str(folder / "pipeline.rviz")
        nodes.append(node("rviz2", "rviz2", arguments=["-d", file]))
    if values["foxglove"]:
        assets = [viewing.PACKAGE_FILES, viewing.MESH_FILES]
        # Stays on this machine, as the nodes do.
        bridge = {"address": "127.0.0.1", "asset_uri_allowlist": assets}
        nodes.append(node("foxglove_bridge", "foxglove_bridge", bridge))
    if values["monitor"]:
        groups = str(folder / "diagnostic_aggregator.yaml")
        nodes.append(node("diagnostic_aggregator", "aggregator_node", groups))
        nodes.append(node("rqt_robot_monitor", "rqt_robot_monitor"))
    return nodes


def _node(spec: pipeline.NodeSpec, described: pipeline.Pipeline, respawns: Respawning) -> Node:
    def end(event: ProcessExited, context: LaunchContext) -> list[Action] | None:
        if context.is_shutdown or respawns.respawns(spec.name, event.returncode):
            return None
        if respawns.is_complete(spec.name, event.returncode):
            report = LogInfo(msg=f"report: {described.output / 'report.html'}")
            return [report, Shutdown(reason="the run is complete")]
        # An error, since launch ends with exit code 0 after a mere Shutdown.
        raise RuntimeError(f"node {spec.full_name} ended with exit code {event.returncode}")

    parameters = spec.parameters
    if spec.executable in _managed(described):
        parameters = parameters | {"managed": True}
    return Node(
        package=pipeline.PACKAGE,
        executable=spec.executable,
        name=spec.name,
        # Given, though empty: launch_ros then names the node in full in its parameter file, and
        # no section of the user's file that holds for more nodes wins over it.
        namespace=spec.namespace,
        parameters=[*spec.parameter_files, {n: _typed(v) for n, v in parameters.items()}],
        remappings=list(spec.remappings),
        ros_arguments=["--enclave", enclave(spec.executable)],
        # Not SetEnvironmentVariable: it would reach the other nodes of a launch file around this.
        additional_env=described.environment,
        output="both",
        sigterm_timeout=str(spec.end_s),
        sigkill_timeout=_SIGKILL_S,
        on_exit=end,
        # launch starts it again whatever it ended with, unless `end` ends the launch before.
        respawn=described.values["respawn"],
        respawn_delay=DELAY_S,
    )


def _typed(value):
    """Keep text text: launch_ros reads it as YAML, and a task "1" would become a number."""
    return ParameterValue(value, value_type=str) if isinstance(value, str) else value
