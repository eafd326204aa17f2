"""A SmolVLA of full-size settings loads by its path, and plans."""

import shutil

import numpy as np
from tiny_smolvla import CAMERAS, make_checkpoint

from residual_smolvla_ros.policy.base import FrozenSmolVLA


def test_three_cameras_at_512_px_plan_a_chunk_after_a_move(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "pretrained_model")
    moved = shutil.copytree(checkpoint, tmp_path / "elsewhere")
    shutil.rmtree(checkpoint)
    base = FrozenSmolVLA(moved)
    base.check_robot(list(CAMERAS), ["joint"] * 6)
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 255, (480, 640, 3), dtype=np.uint8) for name in CAMERAS}
    chunk = base.plan(images, np.zeros(6), "Grab the cube", base.make_noise(0))
    assert chunk.shape == (50, 6)
    assert np.isfinite(chunk).all()
    np.testing.assert_allclose(base.unnormalise_action(np.zeros(6)), np.arange(6.0), atol=1e-5)
    assert base.encode([images])[0].shape == base.token_shape == (3, 256, 128)
