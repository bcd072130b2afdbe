import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.calibrate import ControlPoints, fit_homography, fit_with_lens, read_points
from flows.demo.camera import Camera
from flows.errors import CalibrationError
from flows.georeference import MAX_K1, Calibration, Lens, ground_positions, nadir_px, to_lonlat, to_pixels
from flows.locate import DEPTHS_M, SIZES_M, locate
from flows.schema import EPOCH, OBSERVATIONS
from tests.walks import box_of

SHARED = Path(__file__).resolve().parents[2] / "shared"
PETS09 = SHARED / "data/mot15/PETS09-S2L1/gt.txt"

GROUND_M = np.array([[-4.0, 8], [4, 8], [4, 25], [-4, 25], [0, 12], [2, 18], [-3, 20], [1, 10]])


def _make_camera(**overrides: Any) -> Camera:
    return Camera(**{"width_px": 640, "height_px": 480, "focal_px": 500, "height_m": 6, "tilt_rad": 0.4} | overrides)


def _pixels(camera: Camera, ground_m: np.ndarray) -> np.ndarray:
    return camera.project(np.concatenate([ground_m, np.zeros((len(ground_m), 1))], axis=1))[0]


def _make_calibration(camera: Camera | None = None, **overrides: Any) -> Calibration:
    return fit_homography(_pixels(camera or _make_camera(), GROUND_M), GROUND_M, **overrides)


@pytest.mark.skipif(not PETS09.exists(), reason=f"{PETS09} is absent")
def test_pets09_truth_is_met_to_centimetres():
    truth = np.loadtxt(PETS09, delimiter=",")
    points_px = np.stack([truth[:, 2] + truth[:, 4] / 2, truth[:, 3] + truth[:, 5]], axis=1)
    points_m = truth[:, 7:9]
    fitted = np.isin(truth[:, 1], np.unique(truth[:, 1])[::2])
    calibration = fit_homography(points_px[fitted], points_m[fitted])
    found_m, _ = ground_positions(calibration, points_px[~fitted], 1.0)
    error_m = np.linalg.norm(found_m - points_m[~fitted], axis=1)
    assert np.median(error_m) <= 0.05
    assert np.percentile(error_m, 95) <= 0.15


@settings(deadline=None, max_examples=60)
@given(
    focal_px=st.floats(300, 2000),
    height_m=st.floats(2.5, 80),
    tilt_rad=st.floats(0.1, 1.5),
    share=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20),
    swap=st.booleans(),
)
def test_pixel_to_ground_to_pixel(focal_px, height_m, tilt_rad, share, swap):
    camera = _make_camera(focal_px=focal_px, height_m=height_m, tilt_rad=tilt_rad)
    top_px = max(camera.horizon_px + 20, 0)
    corners_px = np.array([[0, top_px], [640, top_px], [640, 480], [0, 480.0]])
    corners_m = camera.to_ground(corners_px)
    calibration = fit_homography(corners_px, corners_m[:, ::-1] if swap else corners_m)  # a mirrored frame is fine
    points_px = np.array([0, top_px]) + np.array(share) * [640, 480 - top_px]
    there_m, _ = ground_positions(calibration, points_px, 1.0)
    assert np.abs(to_pixels(calibration, there_m) - points_px).max() <= 1e-6


SIZE_PX = (640, 480)


@given(
    k1=st.floats(-MAX_K1, MAX_K1),
    share=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20),
)
def test_a_lens_bends_back_what_it_straightened(k1, share):
    lens = Lens.of_picture(k1, *SIZE_PX)
    points_px = np.array(share) * SIZE_PX
    assert np.abs(lens.bend(lens.straighten(points_px)) - points_px).max() <= 1e-6


@given(k1=st.floats(-MAX_K1, MAX_K1), x=st.floats(0, 1), y=st.floats(0, 1))
def test_the_jacobian_of_a_lens_is_its_derivative(k1, x, y):
    lens, point_px, step = Lens.of_picture(k1, *SIZE_PX), np.array([[x, y]]) * SIZE_PX, 1e-4
    ends = [[lens.straighten(point_px + sign * step * d)[0] for d in np.eye(2)] for sign in (-1, 1)]
    numeric = (np.array(ends[1]) - np.array(ends[0])).T / (2 * step)
    assert lens.jacobian(point_px)[0] == pytest.approx(numeric, abs=1e-5)


@settings(deadline=None, max_examples=25)
@given(k1=st.floats(-0.4, 0.4), tilt_rad=st.floats(0.3, 1.2), share=st.tuples(st.floats(0.1, 0.9), st.floats(0.5, 0.9)))
def test_pixel_to_ground_to_pixel_through_a_lens(k1, tilt_rad, share):
    camera, lens = _make_camera(tilt_rad=tilt_rad), Lens.of_picture(k1, *SIZE_PX)
    points_px = np.array([[40, 300], [600, 300], [600, 470], [40, 470], [320, 380.0]])
    calibration = fit_homography(points_px, camera.to_ground(lens.straighten(points_px)), lens=lens)
    point_px = np.array([share]) * SIZE_PX
    there_m, _ = ground_positions(calibration, point_px, 1.0)
    if np.isfinite(there_m).all():
        assert np.abs(to_pixels(calibration, there_m) - point_px).max() <= 1e-6


@pytest.mark.parametrize("k1", [-0.3, -0.1, 0.0, 0.15])
def test_a_lens_is_found_with_the_ground(k1):
    camera, lens = _make_camera(tilt_rad=0.7), Lens.of_picture(k1, *SIZE_PX)
    random = np.random.default_rng(3)
    points_px = random.uniform([5, 5], [635, 475], (14, 2))
    points_m = camera.to_ground(lens.straighten(points_px)) + random.normal(0, 0.01, (14, 2))
    points_m[4] += [1.5, -1]  # mistyped
    calibration = fit_with_lens(ControlPoints(points_px, points_m), *SIZE_PX)
    assert calibration.lens is not None
    assert calibration.lens.k1 == pytest.approx(k1, abs=0.02)
    assert calibration.inliers.tolist() == [i != 4 for i in range(14)]
    assert calibration.rmse_m < 0.02
    straight = fit_homography(points_px, points_m)
    assert abs(k1) < 0.05 or straight.rmse_m > 3 * calibration.rmse_m


def test_few_points_tell_no_lens():
    points_px = _pixels(_make_camera(), GROUND_M)[:7]
    with pytest.raises(CalibrationError, match="at least 8 control points, got 7"):
        fit_with_lens(ControlPoints(points_px, GROUND_M[:7]), *SIZE_PX)


def test_the_calibrations_own_error_is_part_of_sigma():
    points_m = GROUND_M + np.random.default_rng(0).normal(0, 0.2, GROUND_M.shape)
    calibration = fit_homography(_pixels(_make_camera(), GROUND_M), points_m)
    _, sigma_m = ground_positions(calibration, np.array([[320, 450.0]]), 1e-6)
    assert sigma_m[0] == pytest.approx(calibration.rmse_m, rel=1e-3)


def test_a_mistyped_point_is_set_aside_and_named():
    points_m = GROUND_M.copy()
    points_m[3] += [0, 3]
    calibration = fit_homography(_pixels(_make_camera(), GROUND_M), points_m)
    assert calibration.inliers.tolist() == [True, True, True, False, True, True, True, True]
    assert calibration.rmse_m < 1e-6


def test_beyond_the_horizon_is_nowhere():
    camera = _make_camera(tilt_rad=0.2)
    calibration = _make_calibration(camera)
    points_px = np.array([[320, camera.horizon_px - 10], [320, camera.horizon_px + 10]])
    xy_m, sigma_m = ground_positions(calibration, points_px, 2.0)
    assert np.isnan(xy_m[0]).all()
    assert np.isnan(sigma_m[0])
    assert np.isfinite(xy_m[1]).all()
    assert np.isnan(to_pixels(calibration, np.array([[0.0, -50]]))).all()


def test_what_a_lens_does_not_show_is_nowhere():
    lens = Lens.of_picture(0.3, *SIZE_PX)
    assert np.isnan(lens.bend(np.array([[320.0, 5000]]))).all()
    assert np.isfinite(lens.bend(np.array([[320.0, 400]]))).all()


@pytest.mark.parametrize("lens", [None, Lens.of_picture(-0.4, *SIZE_PX)], ids=["straight", "barrel"])
def test_sigma_is_the_spread_of_noisy_pixels(lens):
    points_px = np.array([[40, 300], [600, 300], [600, 470], [40, 470.0]])
    straight_px = lens.straighten(points_px) if lens else points_px
    calibration = fit_homography(points_px, _make_camera().to_ground(straight_px), lens=lens)
    point_px = np.array([[560.0, 440.0]])
    _, sigma_m = ground_positions(calibration, point_px, 1.5)
    noisy_px = point_px + np.random.default_rng(1).normal(0, 1.5, (20_000, 2))
    spread_m = np.linalg.eigvalsh(np.cov(ground_positions(calibration, noisy_px, 1.5)[0].T))
    assert sigma_m[0] == pytest.approx(np.sqrt(spread_m[-1]), rel=0.03)


def test_json_round_trip_is_exact():
    calibration = _make_calibration(origin_lonlat=(8.55, 47.37), lens=Lens(0.01, (320.0, 240.0), 400.0))
    again = Calibration.from_json(calibration.to_json())
    assert again.to_json() == calibration.to_json()
    assert np.array_equal(again.image_to_ground, calibration.image_to_ground)
    assert again.lens == calibration.lens


def test_calibrations_from_before_there_were_lenses_are_read():
    older = json.loads(_make_calibration().to_json())
    del older["lens"], older["flies"]
    assert Calibration.from_json(json.dumps(older)).lens is None


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"image_to_ground": 3, "origin_lonlat": None})])
def test_what_is_no_calibration_is_refused(text):
    with pytest.raises(CalibrationError, match="not a stored calibration"):
        Calibration.from_json(text)


@pytest.mark.parametrize(
    ("points_px", "points_m", "message"),
    [
        (GROUND_M[:3], GROUND_M[:3], "at least 4 control points"),
        (GROUND_M, GROUND_M[:4], "as many ground points as pixels"),
        (GROUND_M * np.nan, GROUND_M, "finite numbers"),
        (np.repeat(GROUND_M[:2], 3, axis=0), GROUND_M[:6], "different places in pixels"),
        (GROUND_M[:5], np.stack([np.arange(5.0), 2 * np.arange(5.0)], axis=1), "one line in metres"),
        ([[0, 0], [1, 0], [2, 0], [0, 1]], [[0, 0], [1, 0], [2, 1], [0, 1]], "three of four lie on one line"),
        ([[0, 0], [1, 0], [1, 1], [0, 1]], [[0, 0], [1, 1], [1, 0], [0, 1]], "points exchanged"),
    ],
)
def test_points_that_determine_no_plane_say_why(points_px, points_m, message):
    with pytest.raises(CalibrationError, match=message):
        fit_homography(np.array(points_px, dtype=float), np.array(points_m, dtype=float))


def _make_observations(points_px: np.ndarray) -> pa.Table:
    n = len(points_px)
    columns: dict[str, Any] = {
        "x1_px": points_px[:, 0] - 10,
        "x2_px": points_px[:, 0] + 10,
        "y1_px": points_px[:, 1] - 100,
        "y2_px": points_px[:, 1],
        "x_px": points_px[:, 0],
        "y_px": points_px[:, 1],
    }
    for field in OBSERVATIONS:
        if field.name in columns:
            columns[field.name] = pa.array(columns[field.name]).cast(field.type)
        elif field.nullable:
            columns[field.name] = pa.nulls(n, field.type)
        else:
            columns[field.name] = (
                pa.array([0] * n).cast(field.type) if field.type != pa.string() else pa.array(["a"] * n)
            )
    return pa.table([columns[field.name] for field in OBSERVATIONS], schema=OBSERVATIONS)


def _with_boxes(observations: pa.Table, boxes_xyxy: np.ndarray) -> pa.Table:
    for column, values in zip(("x1_px", "y1_px", "x2_px", "y2_px"), boxes_xyxy.T, strict=True):
        index = observations.schema.get_field_index(column)
        observations = observations.set_column(index, column, pa.array(values, pa.float32()))
    return observations


def _of_class(observations: pa.Table, *names: str) -> pa.Table:
    index = observations.schema.get_field_index("class_name")
    return observations.set_column(index, "class_name", pa.array(list(names) * (len(observations) // len(names))))


def test_locate_fills_metres_and_keeps_the_schema():
    camera = _make_camera(tilt_rad=0.2)
    where_px = np.array([[300.0, 400], [320, camera.horizon_px - 50]])
    located = locate(_make_observations(where_px), [(EPOCH, _make_calibration(camera))])
    assert located.schema.equals(OBSERVATIONS)
    expected_m = camera.to_ground(where_px[:1])[0]
    assert located["x_m"].to_pylist() == [pytest.approx(expected_m[0], abs=1e-3), None]
    assert located["y_m"].to_pylist() == [pytest.approx(expected_m[1], abs=1e-3), None]
    sigma_m = located["sigma_m"].to_pylist()
    assert sigma_m[0] > 0
    assert sigma_m[1] is None


def test_what_is_deep_is_placed_by_its_middle():
    camera = _make_camera(tilt_rad=0.4)
    where_px = np.array([[100.0, 300], [320, 400], [600, 320]])
    observations = _of_class(_make_observations(where_px), "car", "train", "person")

    located = locate(observations, [(EPOCH, _make_calibration(camera))])

    edges_m = camera.to_ground(where_px)
    found_m = np.stack([located["x_m"].to_numpy(), located["y_m"].to_numpy()], axis=1)
    beyond_m = np.linalg.norm(found_m - edges_m, axis=1)
    assert beyond_m == pytest.approx([DEPTHS_M["car"] / 2, 0, DEPTHS_M["person"] / 2], abs=1e-3)
    # In the picture, too, and when it is placed again.
    found_px = np.stack([located["x_px"].to_numpy(), located["y_px"].to_numpy()], axis=1)
    assert found_px == pytest.approx(_pixels(camera, found_m), abs=1e-2)
    again = locate(located, [(EPOCH, _make_calibration(camera))])
    assert again.equals(located)
    # Away from the camera: nearly as much further from it.
    foot_m = camera.to_ground(where_px[1:2] + np.array([0, 1e7]))[0]
    further_m = np.linalg.norm(found_m - foot_m, axis=1) - np.linalg.norm(edges_m - foot_m, axis=1)
    assert further_m[[0, 2]] == pytest.approx([2, 0.15], abs=0.01)


@pytest.mark.parametrize("turned_deg", [0, 70])
@pytest.mark.parametrize("heading_deg", [0, 20, 45, 70, 90])
@pytest.mark.parametrize("at_m", [(1.0, 18.0), (8.0, 15.0), (-5.0, 20.0)])
@pytest.mark.parametrize("name", ["car", "truck"])
def test_vehicles_are_as_deep_as_the_way_they_head_shows(name, at_m, heading_deg, turned_deg):
    camera, heading_rad = _make_camera(), np.radians(heading_deg)
    box = box_of(camera, np.array(at_m), heading_rad, (*SIZES_M[name], 1.5))
    observations = _with_boxes(_of_class(_make_observations(box[None, 2:]), name), box[None])
    # The frame may lie anywhere.
    turn = np.radians(turned_deg)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    calibration = fit_homography(_pixels(camera, GROUND_M), GROUND_M @ rotation.T + [300.0, -40])
    centre_m = rotation @ at_m + [300.0, -40]

    def error_m(facing_rad: float | None) -> float:
        headings_rad = None if facing_rad is None else np.array([facing_rad + turn])
        placed = locate(observations, [(EPOCH, calibration)], {"a": SIZE_PX}, headings_rad)
        return float(np.hypot(placed["x_m"][0].as_py() - centre_m[0], placed["y_m"][0].as_py() - centre_m[1]))

    assert error_m(heading_rad) < (0.55 if heading_deg == 0 else 0.8)
    assert error_m(heading_rad - np.pi) == pytest.approx(error_m(heading_rad), abs=1e-6)
    if heading_deg == 0:
        assert error_m(heading_rad) < error_m(None) - 0.4
    assert error_m(np.nan) == error_m(None)


def test_headings_hold_for_their_own_rows_and_what_has_no_size_is_left():
    box = box_of(_make_camera(), np.array([1.0, 18.0]), 0.0, (*SIZES_M["truck"], 1.5))
    boxes = np.tile(box, (4, 1))
    boxes[3, [1, 3]] = [20, 25]  # beyond the horizon
    observations = _with_boxes(_of_class(_make_observations(boxes[:, 2:]), "truck", "truck", "train", "truck"), boxes)
    times = pa.array([EPOCH, EPOCH + timedelta(hours=1), EPOCH, EPOCH], observations.schema.field("ts").type)
    observations = observations.set_column(observations.schema.get_field_index("ts"), "ts", times)
    calibration = _make_calibration()
    versions = [(EPOCH, calibration), (EPOCH + timedelta(minutes=30), calibration)]
    mean, faced = (
        locate(observations, versions),
        locate(observations, versions, headings_rad=np.array([np.nan, 0, 0, 0])),
    )
    moved_m = np.array(faced["y_m"].to_pylist(), dtype=float) - np.array(mean["y_m"].to_pylist(), dtype=float)
    assert moved_m[[0, 2]] == pytest.approx([0, 0], abs=1e-6)
    assert moved_m[1] < -0.5
    assert faced["x_m"][3].as_py() is None


@pytest.mark.parametrize("tilt_rad", [0.2, 0.4, 0.9, 1.4])
@pytest.mark.parametrize("swap", [False, True])
def test_upright_lines_meet_below_the_camera(tilt_rad, swap):
    camera = _make_camera(tilt_rad=tilt_rad)
    ground_m = GROUND_M - np.array([0, 7 * (tilt_rad > 1)])
    calibration = fit_homography(_pixels(camera, ground_m), ground_m[:, ::-1] if swap else ground_m)
    nadir = nadir_px(calibration, SIZE_PX)
    assert nadir is not None
    below_px = camera.height_px / 2 + camera.focal_px / np.tan(tilt_rad)
    assert nadir[:2] / nadir[2] == pytest.approx([camera.width_px / 2, below_px], abs=1e-3)


def test_what_no_camera_sees_like_this_has_no_nadir():
    down = fit_homography(GROUND_M * 10, GROUND_M)
    assert nadir_px(down, SIZE_PX) is None
    flattened = _make_calibration()
    flattened = replace(flattened, image_to_ground=np.diag([1, 0.3, 1]) @ flattened.image_to_ground)
    assert nadir_px(flattened, SIZE_PX) is None


@pytest.mark.parametrize("k1", [None, -0.2])
@pytest.mark.parametrize("at_m", [(-5.0, 10.0), (0.0, 10.0), (2.0, 10.0), (5.0, 10.0), (3.0, 16.0)])
def test_who_leans_outwards_is_placed_at_his_feet(at_m, k1):
    camera, size_m = _make_camera(tilt_rad=0.5), (*SIZES_M["person"], 1.75)
    lens = None if k1 is None else Lens.of_picture(k1, *SIZE_PX)
    points_px = _pixels(camera, GROUND_M)
    calibration = fit_homography(points_px if lens is None else lens.bend(points_px), GROUND_M, lens=lens)
    box = box_of(camera, np.array(at_m), 0.0, size_m)
    if lens is not None:
        box = lens.bend(box.reshape(2, 2)).ravel()
    observations = _of_class(_with_boxes(_make_observations(box[None, 2:]), box[None]), "person")

    def off_m(sizes_px: dict[str, tuple[int, int]]) -> float:
        placed = locate(observations, [(EPOCH, calibration)], sizes_px)
        return float(np.hypot(placed["x_m"][0].as_py() - at_m[0], placed["y_m"][0].as_py() - at_m[1]))

    leaning, upright = off_m({"a": SIZE_PX}), off_m({})
    assert leaning < 0.07
    assert off_m({"b": SIZE_PX}) == upright
    if abs(at_m[0]) == 5:
        assert upright > leaning + 0.1


@pytest.mark.parametrize("tilt_rad", [1.1, 1.3])
@pytest.mark.parametrize("feet_px", [(200.0, 470), (450, 440)])
def test_who_stands_below_the_nadir_leans_towards_it(tilt_rad, feet_px):
    """A camera that looks nearly straight down shows the feet nearer to the middle than the head."""
    camera = _make_camera(tilt_rad=tilt_rad, focal_px=400, height_m=5)
    ground_m = camera.to_ground(np.array([[100.0, 50], [500, 50], [600, 450], [50, 460], [320, 240]]))
    at_m = camera.to_ground(np.array([feet_px]))[0]
    box = box_of(camera, at_m, 0.0, (*SIZES_M["person"], 1.75))
    observations = _of_class(_with_boxes(_make_observations(box[None, 2:]), box[None]), "person")
    placed = locate(observations, [(EPOCH, fit_homography(_pixels(camera, ground_m), ground_m))], {"a": SIZE_PX})
    middle_px, x_px = box[[0, 2]].mean(), placed["x_px"][0].as_py()
    assert abs(x_px - feet_px[0]) < 0.6 * abs(middle_px - feet_px[0])


def test_no_one_leans_out_of_his_box():
    """The model is of boxes of whole objects: what is narrow and high beside the nadir is something else."""
    camera = _make_camera(tilt_rad=1.2)
    boxes = np.array([[600.0, 100, 610, 470], [10, 400, 14, 470]])
    observations = _of_class(_with_boxes(_make_observations(boxes[:, 2:]), boxes), "person")
    placed = locate(observations, [(EPOCH, _make_calibration(camera))], {"a": SIZE_PX})
    x_px = placed["x_px"].to_numpy()
    assert (x_px > boxes[:, 0]).all()
    assert (x_px < boxes[:, 2]).all()


def test_what_the_pictures_edge_cuts_is_not_placed_above_its_boxs_middle():
    camera = _make_camera(tilt_rad=0.4)
    observations = _of_class(_make_observations(np.array([[300.0, 400], [300.0, 400]])), "bus")
    tops = pa.array([100.0, 380], pa.float32())
    observations = observations.set_column(observations.schema.get_field_index("y1_px"), "y1_px", tops)

    located = locate(observations, [(EPOCH, _make_calibration(camera))])

    whole_px, cut_px = located["y_px"].to_pylist()
    assert whole_px < 380
    assert cut_px == pytest.approx(390)
    assert located["y_m"][1].as_py() == pytest.approx(camera.to_ground(np.array([[300.0, 390]]))[0, 1], abs=1e-3)


def test_a_middle_that_the_lens_does_not_show_leaves_the_edge():
    camera = _make_camera(height_m=5, tilt_rad=1.2)
    calibration = replace(_make_calibration(camera), lens=Lens(0.3, (320.0, 240.0), 400.0))

    located = locate(_of_class(_make_observations(np.array([[320.0, 100]])), "bus"), [(EPOCH, calibration)])

    assert located["y_px"].to_pylist() == [100]
    assert located["y_m"].null_count == 0


def test_points_in_metres_are_read(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("name, x_px, y_px, x_m, y_m\ngate, 10, 20, 1.5, -2\npost, 30, 40, 3, 4\n")
    points = read_points(path)
    assert points.points_px.tolist() == [[10, 20], [30, 40]]
    assert points.points_m.tolist() == [[1.5, -2], [3, 4]]
    assert points.origin_lonlat is None


def test_longitude_and_latitude_come_back(tmp_path):
    lonlat = np.array([[8.5400, 47.3700], [8.5410, 47.3700], [8.5410, 47.3707], [8.5400, 47.3708]])
    points_px = np.array([[10, 400], [600, 410], [500, 100], [120, 90.0]])
    path = tmp_path / "points.csv"
    rows = [f"{u},{v},{lon!r},{lat!r}" for (u, v), (lon, lat) in zip(points_px.tolist(), lonlat.tolist(), strict=True)]
    path.write_text("x_px,y_px,lon,lat\n" + "\n".join(rows))
    points = read_points(path)
    # One degree of latitude is 111.2 km at this place, one of longitude 75.4 km.
    assert np.ptp(points.points_m, axis=0) == pytest.approx([75.4, 89], rel=0.01)
    calibration = fit_homography(points.points_px, points.points_m, points.origin_lonlat)
    xy_m, _ = ground_positions(calibration, points_px, 1.0)
    assert to_lonlat(calibration, xy_m) == pytest.approx(lonlat, abs=1e-8)
    # A later calibration of the source keeps its frame.
    assert read_points(path, (8.54, 47.37)).points_m[0] == pytest.approx([0, 0], abs=1e-6)
    with pytest.raises(CalibrationError, match="lon and lat"):
        to_lonlat(_make_calibration(), xy_m)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("a,b\n1,2\n", "found a, b"),
        ("x_px,y_px,x_m,y_m\n1,2,3,4\n\n1,2,three,4\n", "line 4: x_m must be a number, got 'three'"),
        ("x_px,y_px,x_m,y_m\n1,2,3,4\n1,2,3\n", "line 3: y_m must be a number, got None"),
        ("x_px,y_px,lon,lat\n1,2,10,nan\n", "line 2: lat must be a number, got 'nan'"),
        ("x_px,y_px,lon,lat\n1,2,10,110\n", "exchanged"),
        ("x_px,y_px,lon,lat\n1,2,10,47\n1,3,47,10\n", r"points\.csv: a place .* km from the origin .* exchanged"),
    ],
)
def test_a_bad_points_file_names_the_place(tmp_path, text, message):
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=message):
        read_points(path)


def test_a_place_may_lie_across_the_date_line(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("x_px,y_px,lon,lat\n0,0,179.9999,10\n9,0,-179.9999,10\n")
    points = read_points(path)
    assert points.points_m == pytest.approx(np.array([[-10.97, 0], [10.97, 0]]), abs=0.01)


def test_a_missing_points_file_is_named(tmp_path):
    with pytest.raises(CalibrationError, match=r"nowhere\.csv"):
        read_points(tmp_path / "nowhere.csv")
