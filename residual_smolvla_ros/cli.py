"""The command `residual-smolvla`: the launch files' pipelines, started without `launch`."""

import os
import sys
from pathlib import Path

from residual_smolvla_ros import arguments, export, pipeline
from residual_smolvla_ros.local import command as local
from residual_smolvla_ros.recording import convert
from residual_smolvla_ros.recording.checks import command as replay
from residual_smolvla_ros.success import training as success_training
from residual_smolvla_ros.training import command as training

USAGE = """usage: residual-smolvla finetune [name:=value ...]    train a residual, evaluate, report
       residual-smolvla train [name:=value ...]       the same in simulation, without ROS
       residual-smolvla finetune-local --robot.type=... --base_policy_path=... [--name=value ...]
                                                      the same on your robot, without ROS
       residual-smolvla evaluate [name:=value ...]    base against base + residual
       residual-smolvla report output:=<run>          write a run's report anew
       residual-smolvla train-success data:=<dataset> encoder:=<model> output:=<run>
                                                      train a reward model on labelled frames
       residual-smolvla export residual_checkpoint:=<run> output:=<folder>
                                                      base + residual as a policy of LeRobot
       residual-smolvla convert bag:=<bag> output:=<dataset>
                                                      a recorded session as a LeRobotDataset
       residual-smolvla replay bag:=<bag> [check:=policy|reward|learner]
                                                      play a bag into the graph, or check a session
       residual-smolvla keys [robot:=so101_sim] [arm:=arm1]
                                                      label, stop and take over from this terminal
       residual-smolvla call <service>                call a service, such as episode/success
       residual-smolvla set <node> <parameter> <value>
                                                      change a live parameter of a running node
       residual-smolvla <command> --show-args         list the arguments"""

KEYS = "in another terminal, residual-smolvla keys: label episodes, hold the arm, take over"


PIPELINES = (arguments.FINETUNE, arguments.EVALUATE)
# Commands without nodes: their arguments, and what runs them.
BATCH = {
    training.TRAIN: training,
    success_training.TRAIN_SUCCESS: success_training,
    convert.CONVERT: convert,
    export.EXPORT: export,
}
COMMANDS = (
    *PIPELINES,
    *BATCH,
    local.FINETUNE_LOCAL,
    replay.REPLAY,
    "report",
    "keys",
    "call",
    "set",
)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        sys.exit(_run(argv))
    except ValueError as error:
        print(f"residual-smolvla: error: {error}", file=sys.stderr)
        sys.exit(2)


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    command, *rest = argv
    if command not in COMMANDS:
        raise arguments.ArgumentError(
            f"expected one of the commands {', '.join(COMMANDS)}, found {command!r}"
        )
    if command == local.FINETUNE_LOCAL:
        return local.run(rest)  # LeRobot's own parser takes the words
    wants_help = bool({"-h", "--help", "-s", "--show-args"} & set(rest))
    if command == "keys":
        return _keys(["--help"] if wants_help else rest)
    if wants_help:
        has_arguments = command in (*PIPELINES, *BATCH, replay.REPLAY)
        print(_show_arguments(command) if has_arguments else USAGE)
        return 0
    if command == "call":
        return _call(rest)
    if command == "set":
        return _set(rest)
    given = _parse(rest)
    if command == "report":
        return _report(given)
    if command == replay.REPLAY:
        return _replay(given)
    if command in BATCH:
        return BATCH[command].run(given)
    return _start(command, given)


def _parse(tokens: list[str]) -> dict[str, str]:
    pairs = {}
    for token in tokens:
        name, separator, value = token.partition(":=")
        if not separator:
            raise arguments.ArgumentError(f"expected name:=value, found {token!r}")
        pairs[name] = value
    return pairs


def _show_arguments(mode: str) -> str:
    lines = [f"Arguments of residual-smolvla {mode} (name:=value):", ""]
    commands = BATCH | {replay.REPLAY: replay}
    of_mode = commands[mode].ARGUMENTS if mode in commands else arguments.arguments(mode)
    for argument in of_mode:
        lines.append(f"    {argument.name}:")
        lines.append(f"        {argument.help} (default: {argument.default or '-'})")
    return "\n".join(lines)


def _start(mode: str, given: dict[str, str]) -> int:
    described = pipeline.build(mode, given)
    # Only now: a wrong argument is refused at once, without seconds of imports.
    from residual_smolvla_ros import starter
    from residual_smolvla_ros.progress import ProgressBar
    from residual_smolvla_ros.reporting.results import read_summary
    from residual_smolvla_ros.reporting.table import format_table

    values = described.values
    # Set here: the nodes inherit it, and their DDS reads it when it is loaded.
    os.environ.update(described.environment)
    described.output.mkdir(parents=True, exist_ok=True)
    print(f"run: {described.output}")
    if not values["sim"]:
        print(KEYS)
    steps, evaluated = described.training_steps, values["eval_episodes"]
    with ProgressBar(described.followed, steps, evaluated, values.get("resume", False)) as bar:
        code = starter.run(described, bar.show)
    summary = read_summary(described.output)
    if code == 0 and summary:
        print(format_table(summary))
        print(f"report: {described.output / 'report.html'}")
    return code


def _report(given: dict[str, str]) -> int:
    if list(given) != ["output"]:
        raise arguments.ArgumentError(f"report: expected output:=<run>, found {sorted(given)}")
    run = Path(given["output"])
    if not (run / "episodes.jsonl").is_file():
        raise arguments.ArgumentError(
            f"output: expected a run with episodes.jsonl, found none: {run}"
        )
    from residual_smolvla_ros.reporting.report import write_report
    from residual_smolvla_ros.reporting.table import format_table

    print(format_table(write_report(run)))
    return 0


def _replay(given: dict[str, str]) -> int:
    values = replay.parse(given)
    if values["check"]:
        return replay.run_check(values)
    os.environ.update(pipeline.replay_environment())
    from residual_smolvla_ros.nodes import replay as node

    node.main(node.ros_arguments(values))  # ends the process
    return 0


def _keys(words: list[str]) -> int:
    given = {} if words == ["--help"] else _parse(words)
    if given.keys() - {"robot", "arm"}:
        raise arguments.ArgumentError(
            f"keys: expected robot:=<node> and arm:=<namespace> at most, found {given}"
        )
    os.environ.update(pipeline.environment())
    from residual_smolvla_ros.nodes import keyboard

    if given:
        robot = ["-p", f"robot:={given['robot']}"] if "robot" in given else []
        space = ["-r", f"__ns:=/{given['arm']}"] if "arm" in given else []
        words = ["--ros-args", *robot, *space]
    keyboard.main(words)  # ends the process, but for --help
    return 0


def _call(words: list[str]) -> int:
    if len(words) != 1:
        raise arguments.ArgumentError(f"call: expected the name of a service, found {words}")
    # Where the pipeline's nodes are found, and not further.
    os.environ.update(pipeline.environment())
    from residual_smolvla_ros.nodes.call import call

    success, message = call(words[0])
    print(message)
    return 0 if success else 1


def _set(words: list[str]) -> int:
    if len(words) != 3:
        raise arguments.ArgumentError(f"set: expected a node, a parameter, a value, found {words}")
    os.environ.update(pipeline.environment())
    from residual_smolvla_ros.nodes.call import set_parameter

    success, message = set_parameter(*words)
    print(message)
    return 0 if success else 1


if __name__ == "__main__":
    main()
