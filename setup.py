"""Build of the ament_python package; colcon and pip both read it."""

import sys
from glob import glob

from setuptools import find_packages, setup

PACKAGE = "residual_smolvla_ros"
NODES = (
    "so101_bridge",
    "so101_sim",
    "camera",
    "policy",
    "reward",
    "learner",
    "episode",
    "fleet",
    "success_classifier",
    "frame_collector",
    "recorder",
    "replay",
    "teleop",
    "keyboard",
    "rerun_viewer",
    "console",
)

DATA_FILES = [
    ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
    (f"share/{PACKAGE}", ["package.xml"]),
    (f"share/{PACKAGE}/launch", glob("launch/*.py")),
    (f"share/{PACKAGE}/config", glob("config/*")),
]
# pip would copy them, and the copies in the environment would hide edits of the originals.
if "editable_wheel" in sys.argv:
    DATA_FILES = []

# ROS 2 Jazzy from PyPI. Exact, since newer versions of these names are of other distributions.
ROS_WHEELS = [
    "ros-rclpy[fastrtps]==7.1.6",
    "ros-builtin-interfaces==2.0.3",
    "ros-rcl-interfaces==2.0.3",
    "ros-rosgraph-msgs==2.0.3",
    "ros-lifecycle-msgs==2.0.3",
    "ros-diagnostic-msgs==5.3.6",
    "ros-geometry-msgs==5.3.6",
    "ros-sensor-msgs==5.3.6",
    "ros-std-msgs==5.3.6",
    "ros-std-srvs==5.3.6",
    "ros-trajectory-msgs==5.3.6",
]

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Residual PPO on a frozen SmolVLA for the SO101 arm, as ROS 2 nodes",
    license="Apache-2.0",
    maintainer="residual_smolvla_ros maintainers",
    maintainer_email="maintainers@residual-smolvla-ros.example",
    python_requires=">=3.12",
    packages=find_packages(exclude=["test", "test.*", "tools", "tools.*"]),
    package_data={PACKAGE: ["assets/**/*", "console/static/*", "reporting/*.j2"]},
    data_files=DATA_FILES,
    zip_safe=False,
    install_requires=[
        "gymnasium",
        "honcho",
        "jinja2",
        "lerobot[smolvla,feetech,dataset]>=0.6.1,<0.7",
        "matplotlib",
        "mcap",
        "nicegui",
        "numpy",
        "opencv-python-headless",
        "pillow",
        "pin",
        "pyyaml",
        "rosbags",
        "rosbags-image",
        "safetensors",
        "scipy",
        "tensorboard",
        "torch",
        "tqdm",
    ],
    extras_require={
        "ros": ROS_WHEELS,
        # As lerobot[viz] has it, without Foxglove's SDK.
        "rerun": ["rerun-sdk>=0.24,<0.34"],
        "sim": ["so101-nexus>=0.10,<0.11"],
        "test": [
            "catkin_pkg",
            "diffusers>=0.38,<0.40",
            "hypothesis",
            "playwright",
            "psutil",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "rerun-sdk>=0.24,<0.34",
            "ruff",
        ],
    },
    entry_points={
        "console_scripts": [
            f"residual-smolvla = {PACKAGE}.cli:main",
            *(f"{node} = {PACKAGE}.nodes.{node}:main" for node in NODES),
        ],
    },
)
