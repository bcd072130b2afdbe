import numpy as np
import pytest

from flows.calibrate import fit_homography
from flows.demo.scene import Scene
from flows.errors import VideoError
from flows.metre_grid import first_picture, write_check
from tests.videos import write_video


def test_the_grid_lies_where_the_metres_are(tmp_path):
    scene = Scene.random(5, theme="site")
    image, _ = scene.render(0)
    corners_px = np.array([[60, 200], [580, 200], [620, 350], [30, 350], [320, 260.0]])
    calibration = fit_homography(corners_px, scene.stage.camera.to_ground(corners_px))
    step_m = write_check(tmp_path / "check.png", image, calibration)
    drawn = first_picture(str(tmp_path / "check.png"))
    changed = np.abs(drawn.astype(int) - image).sum(axis=2) > 60
    low, high = scene.stage.camera.to_ground(np.array([[320, 340.0], [320, 210.0]]))
    for y_m in np.arange(np.ceil(low[1] / step_m), np.floor(high[1] / step_m) + 1) * step_m:
        u, v = np.round(scene.stage.camera.project(np.array([[0.31 * step_m, y_m, 0.0]]))[0][0]).astype(int)
        assert changed[v - 1 : v + 2, u - 1 : u + 2].any(), y_m
    assert image.shape == drawn.shape


def test_what_is_no_picture_is_named(tmp_path):
    path = tmp_path / "still.png"
    path.write_text("no picture")
    with pytest.raises(VideoError, match=r"still\.png: not a picture"):
        first_picture(str(path))


def test_the_first_frame_of_a_video_will_do(tmp_path):
    path = write_video(tmp_path / "film.mp4")
    assert first_picture(str(path)).shape[2] == 3
