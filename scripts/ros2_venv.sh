#!/usr/bin/env bash
# Make a virtual environment over the Python of a sourced ROS 2, with all packages that pip installs:
#
#     scripts/ros2_venv.sh <folder> [sim] [test]
#
# docs/ros2_install.md says what for. Safe to run again: it installs what is missing.
set -euo pipefail

fail() {
    echo "ros2_venv: error: $*" >&2
    exit 1
}

usage="usage: scripts/ros2_venv.sh <folder> [sim] [test]"
venv=${1:?$usage}
shift
extras=()
for extra in "$@"; do
    [[ $extra == sim || $extra == test ]] || fail "expected sim or test, found $extra; $usage"
    extras+=(--extra "$extra")
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
base=${PYTHON:-python3}
"$base" -c 'import rclpy' 2>/dev/null ||
    fail "expected a $base that has rclpy, found none: source /opt/ros/<distribution>/setup.bash first"
# LeRobot 0.6 needs numpy below 2.3, of which there are no wheels for 3.14.
"$base" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info < (3, 14))' ||
    fail "expected Python 3.12 or 3.13, found $("$base" --version)"

"$base" -m venv --system-site-packages "$venv"
# Its folders are no packages of a workspace that it lies in.
touch "$venv/COLCON_IGNORE"
# uv installs all into the folder. pip takes what apt has where the version fits, built for numpy 1.
"$venv/bin/python" -m pip install -q --disable-pip-version-check -c "$root/constraints.txt" uv
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --constraint "$root/constraints.txt" \
    --build-constraint "$root/constraints.txt" ${extras[@]+"${extras[@]}"} \
    -r "$root/setup.py" colcon-common-extensions
"$venv/bin/python" -c 'import lerobot, numpy, rclpy, scipy.optimize, torch'
echo "ros2_venv: $venv is ready; next: source $venv/bin/activate && python -m colcon build"
