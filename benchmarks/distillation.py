"""Success of the base, of base + residual, and of the base that was distilled from both.

    .venv/bin/python benchmarks/distillation.py --seeds 0 1 2

For each seed: `train` a residual; record a session in which it plays scenes that are not held out
(configs/collect.yaml); `convert` its successful episodes; fine-tune the base on them with
`lerobot-train`; `evaluate` the distilled base alone. All are judged on the same held-out scenes
with the same flow noise. Each step's folder is kept: interrupted, it goes on behind the last whole
step. Writes results/distillation.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from residual_smolvla_ros.arguments import DEMO_CHECKPOINT
from residual_smolvla_ros.reporting.results import SUMMARY, read_summary

HERE = Path(__file__).parent
RESULT = HERE / "results" / "distillation.json"
COLLECT = HERE / "configs" / "collect.yaml"


def run(command: list[str], log: Path, **more) -> None:
    """Run a command with its output in a file; raise CalledProcessError where it fails."""
    print(f"  {' '.join(command[:3])} ... (log: {log})", flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": more.pop("threads", "1"), "HF_HUB_OFFLINE": "1"}
    with log.open("w") as stream:
        subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, check=True, **more
        )


def ours(folder: Path, command: str, done: Path, **arguments) -> None:
    """Run a command of `residual-smolvla` unless what it makes is there already."""
    if done.exists():
        return
    output = arguments["output"]
    if command == "train":
        arguments["resume"] = str((output / "checkpoints").is_dir()).lower()
    else:
        shutil.rmtree(output, ignore_errors=True)  # of a run that was interrupted
    words = [f"{name}:={value}" for name, value in arguments.items()]
    program = [sys.executable, "-m", "residual_smolvla_ros.cli", command]
    run([*program, *words], folder / f"{command}.log")


def collect_config(folder: Path, residual_config: Path, episodes: int) -> Path:
    """Write the config of the recorded session: the residual's own, and what it plays."""
    import yaml

    config = yaml.safe_load(residual_config.read_text())
    for node, section in yaml.safe_load(COLLECT.read_text()).items():
        config.setdefault(node, {}).setdefault("ros__parameters", {}).update(
            section["ros__parameters"]
        )
    config["/**/episode"]["ros__parameters"]["validation_episodes"] = episodes
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "collect.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def fine_tune(folder: Path, dataset: Path, options: argparse.Namespace, seed: int) -> Path:
    """Fine-tune the base with LeRobot's own command; return the new checkpoint."""
    output = folder / "distilled"
    checkpoint = output / "checkpoints" / "last" / "pretrained_model"
    if (checkpoint / "vlm").is_dir():
        return checkpoint
    shutil.rmtree(output, ignore_errors=True)  # of a run that was interrupted
    command = [
        str(Path(sys.executable).parent / "lerobot-train"),
        f"--policy.path={DEMO_CHECKPOINT}",
        "--policy.push_to_hub=false",
        "--policy.device=cpu",
        f"--policy.optimizer_lr={options.learning_rate}",
        "--policy.scheduler_warmup_steps=100",
        f"--policy.scheduler_decay_steps={options.steps}",
        f"--dataset.repo_id=local/{dataset.name}",
        f"--dataset.root={dataset}",
        f"--output_dir={output}",
        f"--steps={options.steps}",
        f"--batch_size={options.batch_size}",
        f"--num_workers={options.workers}",
        f"--save_freq={options.steps}",
        f"--seed={seed}",
        "--log_freq=50",
        "--wandb.enable=false",
    ]
    # The checkpoint names its VLM's folder relative to itself.
    run(command, folder / "lerobot_train.log", cwd=DEMO_CHECKPOINT, threads=str(os.cpu_count()))
    shutil.copytree(DEMO_CHECKPOINT / "vlm", checkpoint / "vlm")
    return checkpoint


def one_seed(seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Return the success of base, base + residual and distilled base."""
    folder = (options.output / f"seed_{seed}").resolve()
    config = options.config.resolve()
    residual, session, dataset = folder / "residual", folder / "session", folder / "dataset"
    if options.residual:
        residual = options.residual.resolve()
    ours(folder, "train", residual / SUMMARY, config=config, seed=seed, output=residual,
         total_steps=options.total_steps, eval_episodes=options.eval_episodes)  # fmt: skip
    ours(folder, "finetune", session / SUMMARY, record="true", camera_period_steps=1,
         config=collect_config(folder, config, options.episodes), residual_checkpoint=residual,
         eval_episodes=0, episodes=1, output=session)  # fmt: skip
    ours(folder, "convert", dataset / "meta" / "info.json", bag=session / "bag", output=dataset,
         episodes="success", phases="validation", images=options.images)  # fmt: skip
    checkpoint = fine_tune(folder, dataset, options, seed)
    evaluation = folder / "evaluation"
    ours(folder, "evaluate", evaluation / SUMMARY, base_checkpoint=checkpoint, output=evaluation,
         eval_episodes=options.eval_episodes)  # fmt: skip
    before, after = read_summary(residual), read_summary(evaluation)
    return {
        "base": before["success_base"],
        "base + residual": before["success_residual"],
        "distilled base": after["success_base"],
        "episodes cloned": json.loads((dataset / "meta" / "info.json").read_text())[
            "total_episodes"
        ],
    }


def main() -> None:
    """Run the chain for each seed, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--config", type=Path, default=HERE.parent / "config" / "sim.yaml")
    parser.add_argument("--residual", type=Path, help="a trained run to start from, of one seed")
    parser.add_argument("--total-steps", type=int, default=150_000, help="of the residual")
    parser.add_argument("--episodes", type=int, default=400, help="of the recorded session")
    # LeRobot decodes a PNG of each step of a chunk, but a video's frame of its first step only.
    parser.add_argument("--images", choices=["video", "image"], default="video")
    parser.add_argument("--steps", type=int, default=2000, help="of lerobot-train")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--workers", type=int, default=1, help="of lerobot-train's data loader")
    parser.add_argument("--eval-episodes", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("outputs/distillation"))
    options = parser.parse_args()
    found = {}
    for seed in options.seeds:
        print(f"seed {seed}", flush=True)
        found[str(seed)] = values = one_seed(seed, options)
        print("  " + ", ".join(f"{name} {value:g}" for name, value in values.items()), flush=True)
    RESULT.write_text(json.dumps(vars(options) | {"seeds": found}, default=str, indent=1) + "\n")
    mean = {name: sum(v[name] for v in found.values()) / len(found) for name in values}
    gain = mean["base + residual"] - mean["base"]
    print(f"mean over {len(found)} seeds, {options.eval_episodes} held-out scenes each:")
    for name in ("base", "base + residual", "distilled base"):
        print(f"  {name:16} {mean[name]:.3f}")
    if gain:
        print(f"  share of the gain {(mean['distilled base'] - mean['base']) / gain:.2f}")


if __name__ == "__main__":
    main()
