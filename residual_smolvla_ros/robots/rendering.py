"""Off-screen cameras of the simulated arm: one OpenGL context, any number of views."""

from dataclasses import dataclass

import mujoco
import numpy as np

# Menagerie's SO101 draws its printed parts in group 2 (348,000 faces) and collides with boxes in
# groups 3 and 4. A software renderer takes 89 ms for two views of the meshes, 5 ms for the boxes.
_MESH_GROUP, _COLLISION_GROUP = 2, 3
_COLLISION_COLOR = (0.95, 0.75, 0.1, 1.0)


@dataclass(frozen=True)
class View:
    """A camera: a name from the model, or a free camera around `lookat` (m, degrees)."""

    width: int
    height: int
    model_camera: str = ""
    lookat: tuple[float, float, float] = (0.0, 0.0, 0.0)
    distance: float = 1.0
    azimuth: float = 0.0
    elevation: float = -45.0
    meshes: bool = False


class Renderer:
    """Render several `View`s of one model.

    All views share one context, since making one takes time. With several renderers in a process
    each must make its own context current, also to free it: else it frees what is another's.
    """

    def __init__(self, model: mujoco.MjModel, views: dict[str, View]):
        self._model = model
        self._views = views
        width = max(view.width for view in views.values())
        height = max(view.height for view in views.values())
        model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
        model.vis.global_.offheight = max(height, model.vis.global_.offheight)
        collision = model.geom_group == _COLLISION_GROUP
        model.geom_rgba[collision] = _COLLISION_COLOR
        self._gl = mujoco.GLContext(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=500)
        # A shadow map costs 60 ms a view in software.
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._cameras = {name: self._make_camera(view) for name, view in views.items()}

    def _make_camera(self, view: View) -> mujoco.MjvCamera:
        camera = mujoco.MjvCamera()
        if view.model_camera:
            camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            camera.fixedcamid = self._model.camera(view.model_camera).id
        else:
            camera.type = mujoco.mjtCamera.mjCAMERA_FREE
            camera.lookat[:] = view.lookat
            camera.distance = view.distance
            camera.azimuth = view.azimuth
            camera.elevation = view.elevation
        return camera

    def render(self, data: mujoco.MjData, name: str) -> np.ndarray:
        """Return the named view as (height, width, 3) uint8 RGB."""
        self._gl.make_current()
        view = self._views[name]
        option = mujoco.MjvOption()
        option.geomgroup[_MESH_GROUP] = view.meshes
        option.geomgroup[_COLLISION_GROUP] = not view.meshes
        # First of all: MuJoCo centres the endless floor on the camera, else on the one before.
        mujoco.mjv_updateCamera(self._model, data, self._cameras[name], self._scene)
        mujoco.mjv_updateScene(
            self._model,
            data,
            option,
            None,
            self._cameras[name],
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        rect = mujoco.MjrRect(0, 0, view.width, view.height)
        mujoco.mjr_render(rect, self._scene, self._context)
        pixels = np.empty((view.height, view.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(pixels, None, rect, self._context)
        return pixels[::-1].copy()

    def close(self) -> None:
        """Free the OpenGL context."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()
