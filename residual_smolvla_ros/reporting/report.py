from pathlib import Path
def write_report(run: Path, wall_s: float) -> None:
    print("done", wall_s)
