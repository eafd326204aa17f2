"""The command `train`: a run in simulation without ROS."""

import os
import sys
from pathlib import Path

from residual_smolvla_ros.arguments import (
    DEMO_CHECKPOINT,
    Argument,
    boolean,
    count,
    parse_values,
    whole_number,
)
from residual_smolvla_ros.pipeline import config_path, environment, output_folder

TRAIN = "train"


def _simulation(text: str) -> bool:
    if not boolean(text):
        raise ValueError("true: without ROS there is the simulator only; see finetune")
    return True


ARGUMENTS = tuple(
    Argument(name, default, text, parse, (TRAIN,))
    for name, default, text, parse in (
        ("sim", "true", "the simulated SO101; there is no other without ROS", _simulation),
        ("num_envs", "20", "simulated arms that play side by side", count),
        ("workers", "1", "processes that share them", count),
        ("config", "", "parameter file; default: config/sim.yaml of the package", str),
        ("base_checkpoint", str(DEMO_CHECKPOINT), "folder of the frozen SmolVLA checkpoint", str),
        ("residual_checkpoint", "", "checkpoint or run folder to start from", str),
        ("task", "Lift the red cube", "language instruction", str),
        ("total_steps", "150000", "control steps to train for", whole_number),
        ("episodes", "0", "training episodes at most; 0: no limit", whole_number),
        ("eval_episodes", "200", "held-out episodes of an evaluation", whole_number),
        ("seed", "0", "seed of everything that is random in training", whole_number),
        ("output", "", "folder of the run; default: outputs/train-<date>-<time>", str),
        ("device", "cpu", "torch device of SmolVLA", str),
        ("resume", "false", "go on with the run in output", boolean),
    )
)


def run(given: dict[str, str]) -> int:
    """Train, evaluate, report; return an exit code.

    Raises ValueError with one line for what cannot work, before anything is written.
    """
    values = parse_values(ARGUMENTS, given)
    output, config = output_folder(TRAIN, values), config_path(values)
    os.environ.update(environment())  # the renderer's choice, before it is loaded
    # Only now: a wrong argument is refused at once, without seconds of imports.
    import torch

    from residual_smolvla_ros.learning.run import LearnerRun
    from residual_smolvla_ros.progress import ProgressBar
    from residual_smolvla_ros.reporting.report import write_report
    from residual_smolvla_ros.reporting.results import write_run
    from residual_smolvla_ros.reporting.table import format_table
    from residual_smolvla_ros.training.settings import CohortMaker, learner_from, schedule_from
    from residual_smolvla_ros.training.trainer import Trainer
    from residual_smolvla_ros.training.workers import Workers

    torch.set_num_threads(1)
    checkpoint = Path(values["base_checkpoint"]).expanduser().resolve()
    learner = learner_from(config, checkpoint, values["seed"], values["total_steps"])
    schedule = schedule_from(config, values, learner)
    make_cohort = CohortMaker(config, checkpoint, values["device"], values["task"])
    make_cohort.reward()  # refuses here what the processes could only fail on
    settings = {"base_checkpoint": str(checkpoint), "seed": values["seed"]}
    kept = LearnerRun(output, learner, settings, values["resume"], values["residual_checkpoint"])
    write_run(output, settings)
    print(f"run: {output}")
    size, processes = values["num_envs"], values["workers"]
    players = None
    go_on = f"go on by: residual-smolvla train resume:=true output:={output}"
    steps, evaluated = values["total_steps"], values["eval_episodes"]
    try:
        players = make_cohort(size) if processes == 1 else Workers(make_cohort, size, processes)
        with ProgressBar(output, steps, evaluated, values["resume"]) as bar:
            trainer = Trainer(output, schedule, kept, players, bar.show)
            if values["resume"]:
                trainer.restore()
            trainer.train()
    except KeyboardInterrupt:
        print(f"interrupted; {go_on}")
        return 130
    except ChildProcessError as error:
        print(f"residual-smolvla: error: {error}; {go_on}", file=sys.stderr)
        return 1
    finally:
        if players is not None:
            players.close()
        kept.close()
    print(format_table(write_report(output)))
    print(f"report: {output / 'report.html'}")
    return 0
