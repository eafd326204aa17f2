"""Hit the nodes of a session in simulation with signals, and say what came of each.

    python benchmarks/faults.py [--nodes policy,learner] [--phases episode] [--signals KILL]

Sessions in lockstep with respawn, recorder and console; one fault after another. After each: the
node answers again (in a new process, but for STOP, which is followed by CONT 5 s later), no other
process ended, an episode was finished and an update made, episodes.jsonl holds each episode once,
and the checkpoint's counters are those of its episodes. At the end of a session: the weights, to
the bit, and the report are those of a run of as many episodes in one process, in which nothing
died. What has been tried stands in results/faults.json; a further call tries the rest, and writes
the table into docs/robustness.md.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import fault_session
from fault_session import EPISODES_PER_UPDATE, STOPPED_S, Broken, Session

from residual_smolvla_ros.learning.checkpoint import checkpoints

NODES = ("policy", "learner", "reward", "episode", "so101_sim", "recorder", "console")
PHASES = ("starting", "episode", "reset", "update", "saving", "end")
SIGNALS = ("KILL", "TERM", "STOP")
RESULTS = Path(__file__).parent / "results" / "faults.json"
PAGE = Path(__file__).parents[1] / "docs" / "robustness.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def main() -> None:
    """Try what has not been tried, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", default=",".join(NODES))
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--signals", default=",".join(SIGNALS))
    parser.add_argument("--domain", type=int, default=93, help="ROS domain")
    parser.add_argument("--anew", action="store_true", help="also what has been tried already")
    given = parser.parse_args()
    wanted = [
        "/".join(fault)
        for fault in itertools.product(
            given.nodes.split(","), given.phases.split(","), given.signals.split(",")
        )
    ]
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    left = [fault for fault in wanted if given.anew or fault not in known]
    in_session = [fault for fault in left if "/end/" not in fault]
    at_end = [[fault] for fault in left if "/end/" in fault]
    for faults in [in_session, *at_end] if in_session else at_end:
        while faults:
            tried = play(faults, given.domain)
            known |= tried
            RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
            faults = [fault for fault in faults if fault not in tried]
    write_table(known)
    failed = {fault: found["wrong"] for fault, found in known.items() if found["wrong"]}
    print(f"{len(known) - len(failed)} of {len(known)} faults survived", *failed.items(), sep="\n")
    sys.exit(bool(failed))


def play(faults: list[str], domain: int) -> dict[str, dict]:
    """Hit a session with faults until one is not survived; return what came of each."""
    tried: dict[str, dict] = {}
    episodes = EPISODES_PER_UPDATE if "/end/" in faults[0] else 0
    with (
        tempfile.TemporaryDirectory() as folder,
        Session(Path(folder), domain, episodes) as session,
    ):
        for fault in faults:
            started = time.monotonic()
            try:
                seconds = hit(session, *fault.split("/"))
                tried[fault] = {"wrong": "", "seconds": round(seconds, 1)}
            except Broken as error:
                tried[fault] = {"wrong": str(error), "seconds": 0.0}
            took = time.monotonic() - started
            print(f"{fault:<28}{tried[fault]['wrong'] or 'survived'}  ({took:.0f} s)", flush=True)
            if tried[fault]["wrong"]:
                print(session.last_words(), flush=True)
                return tried
        if "/end/" in faults[0]:
            return tried
        try:
            session.finish()
            compare(session, domain)
        except Broken as error:
            print(f"at the end of the session: {error}", flush=True)
            for found in tried.values():
                found["wrong"] = f"at the end of its session: {error}"
    return tried


def hit(session: Session, node: str, phase: str, name: str) -> float:
    """Send a signal; return after how many s an episode was finished. Raises Broken."""
    if phase == "end":
        return hit_at_end(session, node, name)
    session.until(lambda: session.finished() > 0, "an episode")
    before = session.nodes()
    if phase == "starting":
        os.kill(before.pop(node), signal.SIGKILL)
        session.until(lambda: node in session.nodes(), f"another process of {node}")
        before = session.nodes()
    else:
        session.await_phase(phase)
    begun, heard = time.monotonic(), session.heard(node)
    version, finished = session.version, session.finished()
    send(before[node], name)
    if name == "STOP":
        begun += STOPPED_S
    else:
        session.until(
            lambda: session.nodes().get(node, before[node]) != before[node], f"{node} anew"
        )
    session.until(lambda: session.heard(node) > heard, f"/diagnostics of {node}")
    session.until(lambda: session.finished() > finished, "an episode after the fault")
    seconds = time.monotonic() - begun
    session.until(lambda: session.version > version, "an update after the fault")
    after = session.nodes()
    others = {other for other in before if other != node and after.get(other) != before[other]}
    if others or (name == "STOP" and after[node] != before[node]):
        raise Broken(f"expected the other processes as before, found others of {others or node}")
    check_files(session.run)
    if node == "console":
        check_page(session.run)
    return seconds


def hit_at_end(session: Session, node: str, name: str) -> float:
    """Send a signal once all episodes have been played; return how long the end took."""
    session.until(lambda: session.state == "done", "the end of the run")
    begun, nodes = time.monotonic(), session.nodes()
    if node in nodes:
        send(nodes[node], name)
    session.join()
    check_files(session.run)
    return time.monotonic() - begun


def send(process: int, name: str) -> None:
    """Send a signal by its name; a STOP ends after a while."""
    os.kill(process, getattr(signal, f"SIG{name}"))
    if name == "STOP":
        time.sleep(STOPPED_S)
        try:
            os.kill(process, signal.SIGCONT)
        except ProcessLookupError:
            return  # ended with the run


def check_files(run: Path) -> None:
    """Raise Broken where an episode is in the run's files twice or not at all."""
    outcomes = fault_session.outcomes(run)
    kept = [(o["phase"], o["index"], o["weights_version"]) for o in outcomes]
    if len(kept) != len(set(kept)):
        raise Broken("expected each episode once in episodes.jsonl, found some twice")
    trained = [o for o in outcomes if o["phase"] in ("warmup", "train")]
    if [o["index"] for o in trained] != list(range(len(trained))):
        raise Broken("expected all training episodes in episodes.jsonl, found gaps")
    newest = checkpoints(run)[0]
    counters = json.loads((newest / "state.json").read_text())["counters"]
    steps = sum(o["steps"] for o in trained[: counters["episodes"]])
    found = counters["version"], counters["episodes"], counters["env_steps"]
    episodes = counters["version"] * EPISODES_PER_UPDATE
    if found != (counters["version"], episodes, steps) or len(trained) < episodes:
        raise Broken(
            f"expected a checkpoint of {episodes} episodes with {steps} steps, found {found}"
        )


def check_page(run: Path) -> None:
    """Raise Broken where the console's page does not come."""
    lines = (run / "log" / "console.log").read_text().splitlines()
    address = [line.split("console: ")[1] for line in lines if "console: http" in line][-1]
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            if answer.status != 200:
                raise Broken(f"expected the console's page, found status {answer.status}")
    except OSError as error:
        raise Broken(f"expected the console's page, found: {error}") from None


def compare(session: Session, domain: int) -> None:
    """Raise Broken where a run without faults ends in other bits, or in another report."""
    other = session.run.with_name("undisturbed")
    words = session.arguments | {"output": str(other), "episodes": str(session.trained())}
    for name in ("respawn", "record", "console", "resume"):
        words.pop(name, None)
    command = [sys.executable, "-m", "residual_smolvla_ros.cli", "train", "num_envs:=1"]
    command += [f"{name}:={value}" for name, value in words.items()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Broken(f"expected a run to compare with, found: {done.stdout}{done.stderr}")
    files = [
        (checkpoints(run)[0] / "residual.safetensors").read_bytes() for run in (other, session.run)
    ]
    if files[0] != files[1]:
        raise Broken("expected the weights of a run without faults, found others")
    names = ("success_base", "success_residual", "env_steps", "updates", "episodes")
    there, here = (json.loads((r / "summary.json").read_text()) for r in (other, session.run))
    differing = [name for name in names if there[name] != here[name]]
    if differing:
        raise Broken(f"expected the report of a run without faults, found other {differing}")


def write_table(known: dict[str, dict]) -> None:
    """Write what came of the faults between two marks of the page."""
    rows = [f"| node | signal | {' | '.join(PHASES)} |", "|---|---|" + "---|" * len(PHASES)]
    for node, name in itertools.product(NODES, SIGNALS):
        cells = [known.get(f"{node}/{phase}/{name}") for phase in PHASES]
        texts = ["" if c is None else "**lost**" if c["wrong"] else f"{c['seconds']:g} s"
                 for c in cells]  # fmt: skip
        rows.append(f"| `{node}` | SIG{name} | {' | '.join(texts)} |")
    survived = sum(not found["wrong"] for found in known.values())
    lines = [
        f"Survived: {survived} of {len(known)} that were tried; an empty cell was not.",
        "",
        *rows,
    ]
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
