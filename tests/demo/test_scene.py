"""The synthetic scenes: what the truth says is what the pictures show."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from flows.demo.camera import transform
from flows.demo.scene import CLASS_NAMES, THEMES, Scene, demo_scene
from flows.demo.writer import line_crossings, read_masks, write_scene, zone_visits


def _make_scene(seed: int = 3, **overrides: Any) -> Scene:
    settings: dict[str, Any] = {"width": 320, "height": 180, "fps": 5.0, "duration_s": 6.0, "n_objects": 10}
    return Scene.random(seed, **(settings | overrides))


def _digest(scene: Scene) -> str:
    digest = hashlib.sha256()
    for index in range(0, scene.frame_count, 7):
        image, ids = scene.render(index)
        digest.update(image.tobytes() + ids.tobytes())
        digest.update(repr([(t.id, t.box_xyxy.tolist(), t.visibility) for t in scene.truth(index)]).encode())
    return digest.hexdigest()


def test_same_seed_gives_the_same_pixels_in_another_process() -> None:
    here = _digest(_make_scene(11))
    code = (
        "import importlib.util as u;"
        f"s=u.spec_from_file_location('t', {__file__!r}); m=u.module_from_spec(s); s.loader.exec_module(m);"
        "print(m._digest(m._make_scene(11)))"
    )
    there = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert there.stdout.strip() == here


def test_seeds_differ() -> None:
    assert len({_digest(_make_scene(seed)) for seed in range(4)}) == 4


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("shake", [False, True])
def test_boxes_are_the_extents_of_the_id_map(theme: str, shake: bool) -> None:
    scene = _make_scene(5, theme=theme, shake=shake)
    seen = 0
    for index in range(0, scene.frame_count, 4):
        image, ids = scene.render(index)
        assert image.shape == (180, 320, 3)
        assert image.dtype == np.uint8
        assert ids.shape == (180, 320)
        truths = {item.id: item for item in scene.truth(index)}
        assert set(np.unique(ids)) - {0} == {item.id for item in truths.values() if item.visibility > 0}
        for number in set(np.unique(ids).tolist()) - {0}:
            rows, columns = np.nonzero(ids == number)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert truths[number].box_xyxy.tolist() == box
            whole = truths[number].amodal_xyxy
            assert (whole[:2] <= box[:2]).all()
            assert (whole[2:] >= box[2:]).all()
            assert 0 < truths[number].visibility <= 1
            seen += 1
    assert seen > 0


def test_shaking_moves_the_picture_and_the_truth_together() -> None:
    still, shaken = _make_scene(5, theme="road"), _make_scene(5, theme="road", shake=True)
    assert np.ptp(shaken.sensor.shift_px, axis=0).min() >= 1
    point_m = np.array([[0.5, 12.0]])
    where = [transform(shaken.image_from_ground(index), point_m)[0] for index in range(shaken.frame_count)]
    moved = np.array(where) + shaken.sensor.shift_px
    assert np.allclose(moved, moved[0])
    assert np.ptp(still.sensor.shift_px) == 0


def test_homography_agrees_with_the_projection() -> None:
    camera = _make_scene(8).stage.camera
    ground_m = np.random.default_rng(0).uniform([-6, 8], [6, 40], (50, 2))
    projected_px, _ = camera.project(np.column_stack([ground_m, np.zeros(50)]))
    assert np.allclose(transform(camera.image_from_ground(), ground_m), projected_px)
    assert np.allclose(camera.to_ground(projected_px), ground_m)


def test_an_object_stands_where_its_ground_position_is() -> None:
    """The projected ground point of a fully visible walker lies at the foot of the box."""
    scene, checked = _make_scene(4, theme="shop"), 0
    for index in range(scene.frame_count):
        for item in scene.truth(index):
            if CLASS_NAMES[item.class_index] != "person" or item.visibility < 1:
                continue
            x0, y0, x1, y1 = item.box_xyxy
            u, v = transform(scene.image_from_ground(index), item.ground_xy_m[None])[0]
            slack = 0.15 * (y1 - y0) + 2
            assert x0 - slack <= u <= x1 + slack
            assert abs(v - y1) <= slack
            checked += 1
    assert checked > 0


def test_nothing_vanishes_in_plain_sight() -> None:
    """An object that was whole in one frame is still seen, in part at least, in the next."""
    for seed in range(3):
        scene, before = _make_scene(seed, fps=15.0, duration_s=3.0), dict[int, float]()
        for index in range(scene.frame_count):
            now = {item.id: item.visibility for item in scene.truth(index)}
            assert set(now) == {actor.id for actor in scene.actors}
            lost = [number for number, visibility in before.items() if visibility > 0.9 and now[number] == 0]
            assert not lost, f"seed {seed}, frame {index}: objects {lost} vanished"
            before = now


def test_nearer_objects_cover_farther_ones() -> None:
    """Wherever two whole masks overlap, the pixel belongs to the one nearer to the camera."""
    scene = demo_scene()
    for index in range(0, scene.frame_count, 10):
        hidden = [item for item in scene.truth(index) if 0 < item.visibility < 1]
        for item in hidden:
            x0, y0, x1, y1 = item.amodal_xyxy
            inside = x0 >= 0 and y0 >= 0 and x1 <= scene.width_px and y1 <= scene.height_px
            in_front = [other for other in scene.truth(index) if other.ground_xy_m[1] < item.ground_xy_m[1]]
            covers = [cover for cover in scene.stage.covers if cover.y_m < item.ground_xy_m[1]]
            assert not inside or in_front or covers


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Path]:
    scene = _make_scene(3, theme="road", duration_s=12.0, n_objects=14)
    folder = tmp_path_factory.mktemp("scene")
    write_scene(scene, folder)
    return scene, folder


def test_video_has_every_frame_at_its_time(written: tuple[Scene, Path]) -> None:
    scene, folder = written
    with av.open(str(folder / "scene.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (scene.width_px, scene.height_px)
        assert stream.codec_context.pix_fmt == "yuv420p"
        frames = list(container.decode(stream))
    assert [frame.time for frame in frames] == pytest.approx(
        [index / scene.fps for index in range(scene.frame_count)], abs=1e-6
    )
    shown, drawn = frames[10].to_ndarray(format="rgb24").astype(int), scene.render(10)[0].astype(int)
    assert np.abs(shown - drawn).mean() < 12


def test_mot_file_round_trip(written: tuple[Scene, Path]) -> None:
    scene, folder = written
    rows = np.loadtxt(folder / "truth.txt", delimiter=",")
    wanted = []
    for index in range(scene.frame_count):
        for item in scene.truth(index):
            if item.visibility > 0:
                x0, y0, x1, y1 = item.box_xyxy
                scored = item.visibility >= 0.25 and y1 - y0 >= 12
                row = [index + 1, item.id, x0, y0, x1 - x0, y1 - y0, scored, item.class_index + 1, item.visibility]
                wanted.append(row)
    assert np.allclose(rows, wanted, atol=6e-4)
    assert (rows[:, 4:6] > 0).all()


def test_masks_round_trip(written: tuple[Scene, Path]) -> None:
    scene, folder = written
    maps = read_masks(folder / "masks.npz")
    assert len(maps) == scene.frame_count
    for index in (0, 17, scene.frame_count - 1):
        assert (maps[index] == scene.render(index)[1]).all()


def test_events_follow_from_the_paths(written: tuple[Scene, Path]) -> None:
    """Count crossings and visits again, by a different method, from what the file says about paths."""
    shapely = pytest.importorskip("shapely")
    scene, folder = written
    truth = json.loads((folder / "truth.json").read_text())
    crossings = visits = 0
    for item in truth["objects"]:
        path = np.array(next(actor.path.xy_m for actor in scene.actors if actor.id == item["id"]))
        path = path[item["first_frame"] : item["last_frame"] + 1]
        assert np.allclose(path, item["ground_xy_m"], atol=1e-3)
        steps = [shapely.LineString(pair) for pair in itertools.pairwise(path)]
        for line in truth["lines"]:
            crossings += sum(step.length > 0 and step.crosses(shapely.LineString(line["points_m"])) for step in steps)
        for zone in truth["zones"]:
            polygon = shapely.Polygon(zone["points_m"])
            inside = [polygon.covers(shapely.Point(point)) for point in path]
            visits += sum(now and not before for now, before in zip(inside, [False, *inside], strict=False))
    assert crossings == len(truth["crossings"]) > 0
    assert visits == len(truth["visits"]) > 0
    for zone in truth["zones"] + truth["lines"]:
        assert np.allclose(
            transform(np.array(truth["image_from_ground"]), np.array(zone["points_m"])), zone["points_px"], atol=0.05
        )


def test_crossing_direction_and_time() -> None:
    line_m = np.array([[0.0, 0.0], [0.0, 10.0]])
    path_m = np.array([[-1.0, 5.0], [3.0, 5.0], [-1.0, 5.0], [-1.0, 20.0], [1.0, 20.0]])
    assert line_crossings(path_m, line_m) == [(0.25, "right"), (1.75, "left")]


def test_visit_from_the_first_to_the_last_row_inside() -> None:
    square_m = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
    path_m = np.array([[-1, 1], [0.5, 1], [1.5, 1], [3, 1], [1, 1]], float)
    assert zone_visits(path_m, square_m) == [(1, 2), (4, 4)]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="theme 'beach'"):
        Scene.random(1, theme="beach")
    with pytest.raises(ValueError, match="positive"):
        Scene.random(1, duration_s=0)


def test_odd_sizes_are_refused_by_the_writer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even width"):
        write_scene(_make_scene(1, width=321), tmp_path)
