"""The command `finetune-local`: fine-tune on one's own robot in one process, without ROS."""

import os
import sys
import time

FINETUNE_LOCAL = "finetune-local"


def run(words: list[str]) -> int:
    """Train; return an exit code.

    Raises ValueError with one line for what cannot work, before the robot moves.
    """
    from residual_smolvla_ros.pipeline import environment

    # The renderer's choice, before it is loaded.
    os.environ.setdefault("MUJOCO_GL", environment()["MUJOCO_GL"])
    from residual_smolvla_ros.local.arguments import parse

    arguments = parse(words)
    # Only now: a wrong argument is refused without the seconds that torch and a base take.
    import torch

    from residual_smolvla_ros.local.session import LocalSession
    from residual_smolvla_ros.robots.safety import CommandRefused
    from residual_smolvla_ros.robots.servo_bus import DeviceLost

    torch.set_num_threads(1)
    session = LocalSession(arguments)
    print(f"run: {session.output}")
    try:
        return 130 if session.play() else 0
    except KeyboardInterrupt:
        print(f"interrupted; {session.go_on}")
        return 130
    except (DeviceLost, CommandRefused) as error:
        print(f"residual-smolvla: error: {error}; {session.go_on}", file=sys.stderr)
        return 1
    finally:
        session.close()


def default_output() -> str:
    """Return the folder of a new run."""
    return f"outputs/{FINETUNE_LOCAL}-{time.strftime('%Y%m%d-%H%M%S')}"
