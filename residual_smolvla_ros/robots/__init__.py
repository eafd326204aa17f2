"""Robots and what belongs to them: safety, drivers, cameras, kinematics, the simulated SO101."""

import os

# Before anything here imports MuJoCo, which reads it then: OSMesa renders without a GPU or a
# display. A user's own choice stands.
os.environ.setdefault("MUJOCO_GL", "osmesa")
