"""Commands, files, parameters and links of the documentation are there, as far as words tell.

Commands are parsed by the code that parses them in use, and not started. What is run besides:
docs/rewards.md by test_reward_docs.py, docs/environment.md by test_environment.py.
"""

import ast
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from residual_smolvla_ros import arguments, cli, viewing
from residual_smolvla_ros.recording.checks import command as replay

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md"]
# Of other projects, or of no use without a network, a robot or a second machine.
ELSEWHERE = {
    "apt-get", "cat", "cd", "colcon", "export", "git", "install/setup.bash", "mkdir", "pip",
    "rosdep", "source", "sudo", "tail", "tensorboard", "usermod",
}  # fmt: skip
PARSED_BY_LEROBOT = ("lerobot-rollout", "lerobot-eval", "lerobot-calibrate")
OTHER_ROS2 = {
    ("bag", "info"), ("bag", "play"), ("bag", "record"), ("bag", "reindex"), ("node", "list"),
    ("lifecycle", "get"), ("lifecycle", "set"),
    ("param", "describe"), ("param", "dump"), ("param", "list"), ("param", "set"),
    ("security", "create_enclave"),
    ("security", "create_keystore"), ("security", "create_permission"),
    ("security", "generate_artifacts"), ("topic", "list"),
}  # fmt: skip
# Of ROS 2 itself, for a robot that it drives.
OTHER_PACKAGES = {"controller_manager"}
OURS = r"(?:\.venv/bin/|PYTHONPATH=|ros2 |make |cp |lerobot-|residual-smolvla )"
HEADS = rf"(?:{OURS}|(?:{'|'.join(sorted(ELSEWHERE))}) )"
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


def shown(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Return the commands of a page: those of its blocks, and those within its lines."""
    text = re.sub(r"^```(?!bash|sh).*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = re.findall(rf"^\s*((?<=    ){HEADS}.*)$", joined, re.MULTILINE)
    for block in re.findall(r"^```(?:bash|sh)\n(.*?)^```", joined, re.DOTALL | re.MULTILINE):
        lines += [line for line in block.splitlines() if line and not line.startswith("#")]
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", joined)]
    lines += [code for code in inline if re.match(rf"{OURS}\S", code) and " " in code]
    return [part.strip() for line in lines for part in line.split("&&")]


ALL = [(page, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_somewhere(page):
    text = re.sub(r"`[^`\n]*`", "", page.read_text())
    links = re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"", text)
    for link in (one or other for one, other in links):
        if link.startswith(("http:", "https:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{shown(page)}: {link}"
        if anchor and target.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in [anchor_of(title) for title in titles], f"{shown(page)}: {link}"


def anchor_of(title: str) -> str:
    """Return GitHub's anchor of a title."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    missing = [p.name for p in (ROOT / "docs").glob("*.md") if f"({p.name})" not in index]
    assert [name for name in missing if name != "README.md"] == []


# -- commands -------------------------------------------------------------------------------


def test_commands_are_found():
    assert len(ALL) > 80
    assert {shown(page) for page, _ in ALL} >= {"README.md", "README.zh.md", "docs/tutorial.md"}


@pytest.mark.parametrize(
    ("page", "command"), ALL, ids=[f"{page.name}: {command[:60]}" for page, command in ALL]
)
def test_a_command_is_one_that_its_program_takes(page, command, monkeypatch, tmp_path):
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    head, *rest = words
    head = head.removeprefix(".venv/bin/")
    if head == "residual-smolvla":
        check_residual_smolvla(rest)
    elif head == "ros2":
        check_ros2(rest)
    elif head.startswith("lerobot-"):
        check_lerobot(head, rest, monkeypatch, tmp_path)
    elif head == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert [word for word in rest if "=" not in word and word not in targets] == []
    elif head.endswith("scripts/ros2_venv.sh"):
        assert (ROOT / "scripts" / "ros2_venv.sh").is_file()
    elif head == "python":
        assert rest[:2] == ["-m", "colcon"] or (ROOT / rest[0]).is_file()
    elif head == "cp":
        assert (ROOT / rest[0]).is_file() or "<" in command
    else:
        assert head in ELSEWHERE


def check_residual_smolvla(words: list[str]) -> None:
    """Parse as the command does; `<run>` and the like stand for a folder."""
    name, *rest = words
    if name in ("<command>", "X") or {"--help", "--show-args"} & set(rest):
        return
    assert name in cli.COMMANDS
    if name == "call":
        assert rest == ["<service>"] or f"| `{rest[0]}` |" in REFERENCE
        return
    if name == "set" and rest != ["<node>", "<parameter>", "<value>"]:
        check_parameter(*rest)
        return
    if any(word.startswith("--") for word in rest):
        return  # options as LeRobot's, of a command that has tests of its own
    tokens = [word.strip("[]") for word in rest]
    given = cli._parse([t for t in tokens if t != "..." and not t.startswith("name:=")])
    if "config" in given and given["config"].startswith(("config/", "benchmarks/")):
        assert (ROOT / given["config"]).is_file()
    if name in cli.PIPELINES:
        arguments.parse_arguments(name, given)
    elif name in cli.BATCH:
        arguments.parse_values(cli.BATCH[name].ARGUMENTS, given)
    elif name == replay.REPLAY:
        alternatives = given.get("check", "").split("|")
        for check in alternatives:
            arguments.parse_values(replay.ARGUMENTS, given | {"check": check})
    elif name in ("report", "keys"):
        assert given.keys() <= {"report": {"output"}, "keys": {"robot"}}[name]


def check_parameter(node: str, name: str, value: str) -> None:
    """The reference has a live parameter of this node's; a term's name is the user's."""
    section = REFERENCE.partition(f"## Node `{node.lstrip('/')}`")[2].partition("\n## ")[0]
    name = "terms.*" if name.startswith("terms.") else name
    row = re.search(rf"^\| `{re.escape(name)}` \|.*\| with the next \w+ \|", section, re.MULTILINE)
    assert row, (node, name, value)


def check_ros2(words: list[str]) -> None:
    """Look up files, executables, parameters, services and topics by their names."""
    kind, *rest = words
    if kind == "launch":
        package, file, *given = rest
        assert package == "residual_smolvla_ros"
        assert (ROOT / "launch" / file).is_file()
        if file == f"{viewing.VIEW}.launch.py":
            arguments.parse_values(viewing.ARGUMENTS, cli._parse(given))
        elif given not in (["--show-args"], ["..."]):
            command = file.removesuffix(".launch.py").replace("remote_learner", "finetune")
            check_residual_smolvla([command, *given])
    elif kind == "run":
        package, node, *given = rest
        if package in OTHER_PACKAGES:
            return
        assert package == "residual_smolvla_ros"
        names = parameters(node)
        used = [word.partition(":=")[0] for word in given if ":=" in word]
        assert [name for name in used if name not in names] == []
    elif kind in ("service", "topic") and rest[0] in ("call", "echo", "hz"):
        assert f"| `{rest[1].removeprefix('/')}` |" in REFERENCE.replace("`/", "`")
    else:
        assert (kind, rest[0]) in OTHER_ROS2


def check_lerobot(program: str, words: list[str], monkeypatch, folder: Path) -> None:
    """Parse the options by LeRobot's own parser, with an exported policy where one is named."""
    assert shutil.which(program, path=str(ROOT / ".venv" / "bin")) or shutil.which(program)
    is_whole = any(word.startswith(("--policy.path", "--robot.", "--teleop.")) for word in words)
    if program not in PARSED_BY_LEROBOT or not is_whole or "..." in words:
        return
    from lerobot.configs import parser
    from lerobot.configs.eval import EvalPipelineConfig
    from lerobot.rollout import RolloutConfig
    from lerobot.scripts import lerobot_calibrate, lerobot_rollout  # noqa: F401

    from residual_smolvla_ros.lerobot_plugin import BaseAndResidualConfig

    kinds = {
        "lerobot-rollout": RolloutConfig,
        "lerobot-eval": EvalPipelineConfig,
        "lerobot-calibrate": lerobot_calibrate.CalibrateConfig,
    }
    BaseAndResidualConfig(device="cpu").save_pretrained(folder)
    words = [re.sub("(?<=policy.path=).*", str(folder), word) for word in words]
    monkeypatch.setattr(sys, "argv", [program, *words])

    def command(config: kinds[program]):
        return config

    assert parser.wrap()(command)()


# -- files of parameters, and Python --------------------------------------------------------


def parameters(node: str) -> set[str]:
    """Return the names of a node's parameters, as the reference has them."""
    section = REFERENCE.partition(f"## Node `{node}`\n")[2].partition("\n## ")[0]
    assert section, f"expected a node, found {node}"
    return set(re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE))


YAML = [(page, text) for page in PAGES for text in fenced(page, "yaml")]
YAML += [(file, file.read_text()) for file in sorted(ROOT.glob("config/*.yaml"))]


@pytest.mark.parametrize(("page", "text"), YAML, ids=[shown(page) for page, _ in YAML])
def test_a_parameter_file_names_nodes_and_parameters_that_there_are(page, text):
    content = yaml.safe_load(text)
    for section, body in content.items():
        if not section.startswith("/**/"):
            continue
        names = set(body["ros__parameters"])
        if section == "/**/pipeline":
            known = {a.name for a in arguments.ARGUMENTS} | {"robot", "teleop"}
        else:
            known = {n.removesuffix(".*") for n in parameters(section.removeprefix("/**/"))}
        assert names - known == set()


@pytest.mark.parametrize("page", [page for page in PAGES if fenced(page, "python")], ids=shown)
def test_python_is_python_and_imports_what_there_is(page):
    for source in fenced(page, "python"):
        for statement in ast.walk(ast.parse(source)):
            if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith(
                "residual_smolvla_ros"
            ):
                parts = statement.module.split(".")
                place = ROOT.joinpath(*parts)
                assert place.is_dir() or place.with_suffix(".py").is_file(), statement.module


def test_the_readme_in_chinese_has_no_figure_that_the_readme_has_not():
    def figures(name: str) -> set[str]:
        return set(re.findall(r"\d+\.\d{2,}|\d+,\d{3}", (ROOT / name).read_text()))

    assert figures("README.zh.md") - figures("README.md") == set()
