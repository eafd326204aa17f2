"""Make the demo's base checkpoint: demonstrate, clone, evaluate, write the folder."""

import argparse
import logging
import sys
import time
from pathlib import Path

import torch
from demonstrate import REPO_ID, record
from evaluate import HELD_OUT_SEEDS, evaluate, load
from lerobot.datasets import LeRobotDataset
from model_card import write_card
from train import Frames, make_policy, save, train

from residual_smolvla_ros.robots.simulation import SimulatedSO101

# Scenes to pick when to stop; neither demonstrated nor held out.
VALIDATION_SEEDS = range(500_000, 500_100)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument(
        "--dataset",
        type=Path,
        default=Path("outputs/demonstrations"),
        help="folder of the demonstrations; used as it is if it exists, recorded otherwise",
    )
    parser.add_argument("--episodes", type=int, default=300, help="demonstrations to record")
    parser.add_argument("--noise-mm", type=float, default=4.0, help="noise of the expert's target")
    parser.add_argument("--steps", type=int, default=3000, help="most training steps")
    parser.add_argument("--check-every", type=int, default=500, help="steps between validations")
    parser.add_argument(
        "--stop-at", type=float, default=0.35, help="validation success that ends training"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument(
        "--evaluate-only", action="store_true", help="only evaluate the checkpoint in --output"
    )
    return parser.parse_args()


def make(arguments: argparse.Namespace) -> None:
    """Record or reuse demonstrations, train, save, evaluate and write the model card."""
    if arguments.dataset.exists():
        dataset = LeRobotDataset(REPO_ID, root=arguments.dataset)
    else:
        dataset = record(
            arguments.dataset, arguments.episodes, arguments.noise_mm / 1e3, arguments.seed
        )
    policy, *processors = make_policy(arguments.output, dataset)
    sim = SimulatedSO101()

    def good_enough(step: int) -> bool:
        result = evaluate(sim, policy, *processors, VALIDATION_SEEDS, "validation")
        print(f"\nstep {step}: {result}", flush=True)
        save(arguments.output, policy, *processors)
        return result.rate >= arguments.stop_at

    frames = Frames(dataset)
    steps, seconds = train(
        policy,
        processors[0],
        frames,
        arguments.steps,
        arguments.seed,
        arguments.check_every,
        good_enough,
    )
    save(arguments.output, policy, *processors)
    result = report(arguments.output, sim)
    write_card(arguments.output, policy, dataset, arguments, steps, seconds, result)
    sim.close()


def report(checkpoint: Path, sim: SimulatedSO101):
    """Load the saved folder and print its success on the held-out scenes."""
    policy, *processors = load(checkpoint)
    result = evaluate(sim, policy, *processors, HELD_OUT_SEEDS, "held out")
    print(result)
    return result


def main() -> int:
    """Run the command line; return the exit status."""
    arguments = parse_arguments()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    begun = time.perf_counter()
    try:
        if arguments.evaluate_only:
            sim = SimulatedSO101()
            report(arguments.output, sim)
            sim.close()
        else:
            make(arguments)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"make.py: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    print(f"done in {(time.perf_counter() - begun) / 60:.1f} min")
    return 0


if __name__ == "__main__":
    sys.exit(main())
