"""Rules of the repository that no linter knows."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "residual_smolvla_ros"
MAX_LINES = 350

# Who may import what of this package; nodes/ may import all.
LAYERS = {
    "policy": {"policy", "planning", "errors"},
    "learning": {"learning", "policy", "records", "arguments", "parameters", "errors"},
    "rewards": {"rewards", "robots", "records", "errors"},
    "robots": {"robots", "parameters", "errors"},
    "training": {
        "training",
        "arguments",
        "config_file",
        "learning",
        "pipeline",
        "planning",
        "policy",
        "progress",
        "records",
        "reporting",
        "rewards",
        "robots",
        "errors",
    },
    "console": {"console", "learning", "reporting", "robots", "records", "progress", "errors"},
    "success": {"success", "arguments", "records", "errors"},
    "reporting": {"reporting", "learning", "records"},
    "recording": {
        "recording",
        "arguments",
        "config_file",
        "learning",
        "planning",
        "policy",
        "progress",
        "records",
        "rewards",
        "robots",
        "errors",
    },
    "api": {
        "api",
        "learning",
        "pipeline",
        "policy",
        "records",
        "rewards",
        "robots",
        "training",
        "errors",
    },
    "local": {
        "arguments",
        "local",
        "api",
        "learning",
        "pipeline",
        "policy",
        "records",
        "reporting",
        "rewards",
        "robots",
        "training",
        "errors",
    },
    "lerobot_plugin": {"lerobot_plugin", "learning", "pipeline", "policy", "robots", "errors"},
    "export.py": {"arguments", "lerobot_plugin", "learning", "policy", "errors"},
    "arguments.py": set(),
    "config_file.py": {"errors"},
    "image_period.py": {"config_file", "planning", "errors"},
    "planning.py": {"parameters", "errors"},
    "parameters.py": {"errors"},
    "security.py": set(),
    "session_outline.py": {"arguments"},
    "node_choice.py": {"arguments"},
    "node_spec.py": set(),
    "fleet_pipeline.py": {"arguments", "config_file", "node_spec"},
    "respawning.py": {"arguments"},
    "viewing.py": {"arguments"},
    "pipeline.py": {
        "arguments",
        "config_file",
        "fleet_pipeline",
        "image_period",
        "node_choice",
        "node_spec",
        "respawning",
        "session_outline",
        "errors",
    },
}


def tracked_files() -> list[Path]:
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    try:
        names = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a repository to know which files are tracked")
    files = [ROOT / name for name in names.split("\0") if name]
    return [file for file in files if file.is_file()]


def python_files(folder: Path) -> list[Path]:
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.py"))
    assert files, f"expected Python files in {folder}"
    return files


def imports(file: Path) -> list[str]:
    """Return the dotted names that a file imports, at its top or within a function."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def shown(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_only_nodes_import_ros():
    ros = re.compile(r"(rclpy|builtin_interfaces|rosgraph_msgs|\w+_msgs|std_srvs)(\.|$)")
    files = [f for f in python_files(ROOT / PACKAGE) if "nodes" not in f.parent.parts]
    found = {shown(f): n for f in files for n in imports(f) if ros.match(n)}
    assert not found


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_what_lies_below_it(layer):
    found = {}
    for file in python_files(ROOT / PACKAGE / layer):
        ours = [name.split(".")[1] for name in imports(file) if name.startswith(f"{PACKAGE}.")]
        if strange := set(ours) - LAYERS[layer]:
            found[shown(file)] = strange
    assert not found


@pytest.mark.parametrize("file", ["pipeline.py", "arguments.py", "session_outline.py"])
def test_the_pipeline_description_needs_the_standard_library_only(file):
    names = {name.split(".")[0] for name in imports(ROOT / PACKAGE / file)}
    assert names - {PACKAGE} <= sys.stdlib_module_names


def test_nothing_that_runs_code_from_data_is_used():
    """Messages and checkpoints are data: no format that can carry code is read or written."""
    names = ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal")
    calls = re.compile(r"\b(torch\.(load|save)|allow_pickle\s*=\s*True|yaml\.(unsafe_)?load)\s*\(?")
    found = {}
    for file in (f for f in tracked_files() if f.suffix == ".py"):
        used = [name for name in imports(file) if name.split(".")[0] in names]
        used += [match.group() for match in calls.finditer(file.read_text())]
        if used:
            found[shown(file)] = used
    assert not found


SHELLS = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}


def test_nothing_runs_a_shell():
    """A parameter, a topic's name or a folder would become a command: programs get lists."""
    found = {}
    for file in (f for f in tracked_files() if f.suffix == ".py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if not isinstance(call, ast.Call):
                continue
            name = ast.unparse(call.func).rpartition(".")[2]
            shells = [k for k in call.keywords if k.arg == "shell" and not is_false(k.value)]
            if name in SHELLS or shells:
                found[shown(file)] = ast.unparse(call)
    assert not found


def is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


# Put together here, so that this file is not found by its own search.
MACHINE_PATHS = [f"/{name}/" for name in ("work", "home", "root", "Users", "mnt")]
HOSTS = ["pypi" + ".org", "python" + "hosted", "hugging" + "face.co", "arti" + "factory"]
OPTIONS = ["--index" + "-url", "--extra-index" + "-url", "--find" + "-links", "PIP_" + "INDEX"]


def test_no_path_of_a_machine_and_no_registry_is_named():
    words = [word.encode() for word in (*MACHINE_PATHS, *HOSTS, *OPTIONS)]
    found = {}
    for file in tracked_files():
        content = file.read_bytes()
        if named := [word.decode() for word in words if word in content]:
            found[shown(file)] = named
    assert not found


def test_a_file_is_short_enough_to_be_read():
    lengths = {shown(f): len(f.read_text().splitlines()) for f in python_files(ROOT / PACKAGE)}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}
