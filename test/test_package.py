"""What ROS 2's tools read of the package is whole and true: package.xml, setup.py, CHANGELOG, CI.

Nothing of the package is imported: the job without LeRobot runs this file too.
"""

import ast
import configparser
import re
import runpy
import sys
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "residual_smolvla_ros"
WORKFLOW = ROOT / ".github" / "workflows" / "industrial_ci.yml"

# Modules whose rosdep key has another name, as in rosdistro's rosdep/python.yaml.
ROSDEP_KEYS = {
    "PIL": "python3-pil",
    "catkin_pkg": "python3-catkin-pkg-modules",
    "hypothesis": "python3-hypothesis",
    "jinja2": "python3-jinja2",
    "numpy": "python3-numpy",
    "psutil": "python3-psutil",
    "pytest": "python3-pytest",
    "setuptools": "python3-setuptools",
    "tqdm": "python3-tqdm",
    "websockets": "python3-websockets",
    "yaml": "python3-yaml",
}
NO_KEY = "has no rosdep key"
NUMPY_1 = "Ubuntu 24.04's is built for numpy 1, and LeRobot needs numpy 2"
OLD = "LeRobot or NiceGUI needs a newer one than Ubuntu 24.04's"
PIP_KEY = "its key has rosdep run pip as root, on no version"
# What pip installs instead: the requirement of setup.py that brings it, and why not rosdep.
PIP_ONLY = {
    "av": ("lerobot", NO_KEY),
    "cv2": ("opencv-python-headless", NUMPY_1),
    "datasets": ("lerobot", NO_KEY),
    "draccus": ("lerobot", NO_KEY),
    "fastapi": ("nicegui", OLD),
    "gymnasium": ("gymnasium", PIP_KEY),
    "honcho": ("honcho", NO_KEY),
    "huggingface_hub": ("lerobot", NO_KEY),
    "lerobot": ("lerobot", NO_KEY),
    "matplotlib": ("matplotlib", NUMPY_1),
    "mcap": ("mcap", NO_KEY),
    "mujoco": ("so101-nexus", PIP_KEY),
    "nicegui": ("nicegui", NO_KEY),
    "pinocchio": ("pin", NUMPY_1),
    "playwright": ("playwright", NO_KEY),
    "rerun": ("rerun-sdk", NO_KEY),
    "rosbags": ("rosbags", PIP_KEY),
    "safetensors": ("safetensors", NO_KEY),
    "scipy": ("scipy", NUMPY_1),
    "so101_nexus": ("so101-nexus", NO_KEY),
    "starlette": ("nicegui", NO_KEY),
    "tokenizers": ("lerobot", NO_KEY),
    "torch": ("torch", OLD),
    "torchvision": ("lerobot", OLD),
    "transformers": ("lerobot", PIP_KEY),
    "uvicorn": ("nicegui", OLD),
}
# Used by command or by name in a launch file, and imported nowhere.
NOT_IMPORTED = {"ros2launch", "robot_state_publisher", "python3-pytest-timeout"}


@cache
def top_level_imports(folder: str) -> set[str]:
    """Return the modules of other packages that the files of a folder import."""
    names = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
                names.add(node.args[0].value.partition(".")[0])
    own = {file.stem for own in ("test", "tools") for file in (ROOT / own).rglob("*.py")}
    return names - sys.stdlib_module_names - own - {PACKAGE}


def imported() -> set[str]:
    return set().union(*map(top_level_imports, (PACKAGE, "launch", "test")))


@pytest.fixture(scope="module")
def manifest():
    """package.xml as colcon, rosdep and bloom read it."""
    catkin_package = pytest.importorskip("catkin_pkg.package")
    found = []
    package = catkin_package.parse_package(ROOT / "package.xml", warnings=found)
    package.validate(warnings=found)
    assert found == []
    return package


@pytest.fixture(scope="module")
def setup_arguments():
    """What setup.py hands to setuptools."""
    setuptools = pytest.importorskip("setuptools")
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", ["setup.py", "install"])
        patch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
        runpy.run_path("setup.py")
    return given


def requirements(setup_arguments: dict) -> set[str]:
    lists = [setup_arguments["install_requires"], *setup_arguments["extras_require"].values()]
    return {re.match(r"[\w-]+", line).group() for several in lists for line in several}


def test_package_xml_and_setup_py_tell_the_same(manifest, setup_arguments):
    assert (manifest.name, manifest.version) == (PACKAGE, setup_arguments["version"])
    assert manifest.licenses == [setup_arguments["license"]]
    assert manifest.description.rstrip(".") == setup_arguments["description"]
    (maintainer,) = manifest.maintainers
    assert maintainer.email == setup_arguments["maintainer_email"]
    assert manifest.get_build_type() == "ament_python"


def test_each_import_is_declared_or_named_as_pip_s_own(manifest, setup_arguments):
    run = {d.name for d in manifest.exec_depends}
    test = run | {d.name for d in manifest.test_depends}
    for folder, declared in ((PACKAGE, run), ("launch", run), ("test", test)):
        imported = top_level_imports(folder) - PIP_ONLY.keys()
        assert {ROSDEP_KEYS.get(name, name) for name in imported} - declared == set()
    wanted = {requirement for requirement, _ in PIP_ONLY.values()}
    assert wanted - requirements(setup_arguments) == set()


def test_nothing_is_declared_that_is_not_used(manifest):
    declared = {d.name for d in manifest.exec_depends + manifest.test_depends}
    assert declared - {ROSDEP_KEYS.get(name, name) for name in imported()} == NOT_IMPORTED
    assert PIP_ONLY.keys() - imported() == set()


def test_cv_bridge_is_not_asked(manifest):
    """Jazzy's is built for numpy 1: beside numpy 2 it imports, and then converts no image."""
    assert "cv_bridge" not in imported()
    assert "cv_bridge" not in {d.name for d in manifest.exec_depends}


def test_share_holds_each_launch_file_each_config_and_the_ament_index_s_marker(setup_arguments):
    installed = {f: folder for folder, files in setup_arguments["data_files"] for f in files}
    for folder in ("launch", "config"):
        for file in (ROOT / folder).iterdir():
            if file.is_file():
                assert installed[f"{folder}/{file.name}"] == f"share/{PACKAGE}/{folder}"
    assert installed["package.xml"] == f"share/{PACKAGE}"
    marker = installed[f"resource/{PACKAGE}"]
    assert marker == "share/ament_index/resource_index/packages"


def test_each_data_file_of_the_package_is_installed(setup_arguments):
    patterns = setup_arguments["package_data"][PACKAGE]
    folder = ROOT / PACKAGE
    data = [f for f in folder.rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc")]
    names = [str(f.relative_to(folder)) for f in data]
    assert len(names) > 10
    assert [n for n in names if not any(fnmatch(n, p.replace("**/", "*")) for p in patterns)] == []


def test_each_executable_is_a_main_and_lands_where_ros2_run_looks(setup_arguments):
    for line in setup_arguments["entry_points"]["console_scripts"]:
        module, function = re.search(r"= ([\w.]+):(\w+)$", line).groups()
        names = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text()).body
        assert function in [n.name for n in names if isinstance(n, ast.FunctionDef)]
    options = configparser.ConfigParser()
    options.read(ROOT / "setup.cfg")
    for section, option in (("develop", "script_dir"), ("install", "install_scripts")):
        assert options[section][option] == f"$base/lib/{PACKAGE}"


def test_catkin_prepare_release_makes_a_version_of_what_is_forthcoming():
    changelog = pytest.importorskip("catkin_pkg.changelog")
    package_version = pytest.importorskip("catkin_pkg.package_version")
    text = (ROOT / "CHANGELOG.rst").read_text()
    label = package_version.get_forthcoming_label(text)
    released = package_version.rename_section(text, label, "9.8.7 (2030-01-02)")
    found = changelog.populate_changelog_from_rst(changelog.Changelog(PACKAGE), released)
    assert len(found.get_content_of_version("9.8.7")[0].bullets) > 20


# Supported by rosdistro's index-v4.yaml and industrial_ci; Ubuntu 24.04, 24.04, 26.04.
DISTRIBUTIONS = {"jazzy", "kilted", "lyrical"}


def test_the_workflow_builds_on_each_distribution_and_calls_what_there_is():
    workflow = yaml.safe_load(WORKFLOW.read_text())
    assert {"push", "pull_request"} <= workflow[True].keys()  # YAML 1.1 reads `on` as true
    jobs = workflow["jobs"].values()
    matrices = [job["strategy"]["matrix"]["ROS_DISTRO"] for job in jobs]
    assert {name for names in matrices for name in names} == DISTRIBUTIONS
    for job in jobs:
        assert job["env"]["ROS_DISTRO"] == "${{ matrix.ROS_DISTRO }}"
        assert "ros-industrial/industrial_ci@master" in [step["uses"] for step in job["steps"]]
        for hook in (value for key, value in job["env"].items() if key.startswith("AFTER_")):
            for file in re.findall(r"\b(?:scripts|test)/[\w.]+", hook):
                assert (ROOT / file).is_file(), file
