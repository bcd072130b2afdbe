import logging
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flows.calibrate import fit_homography
from flows.config import EventSettings, GeoreferenceSettings, StitchSettings
from flows.demo.camera import Camera
from flows.events import recompute_events
from flows.flight import BOUND_95
from flows.georeference import Calibration
from flows.locate import DEPTHS_M, SIZES_M, calibrations, jitter_m, locate, locate_stored, relocate
from flows.reports import run_report
from flows.schema import EPOCH, OBSERVATIONS, Video
from flows.stitch import stitch_source
from flows.store import Filter, Zone, open_store
from tests.stores import START, make_video
from tests.tracked import make_store, sighting
from tests.walks import box_of

CORNERS_PX = np.array([[0, 0], [640, 0], [640, 480], [0, 480.0]])


def _make_calibration(metres_per_px: float) -> Calibration:
    return fit_homography(CORNERS_PX, CORNERS_PX * metres_per_px)


def _make_observations(video: Video, times: list[datetime]) -> pa.Table:
    rows = [sighting(video, "a", i, (90, 40, 110, 200), ts=ts, chunk_id="c") for i, ts in enumerate(times)]
    return pa.Table.from_pylist([{n: row.get(n) for n in OBSERVATIONS.names} for row in rows], schema=OBSERVATIONS)


def test_each_calibration_holds_from_its_time_to_the_next():
    hour = timedelta(hours=1)
    versions = [(START, _make_calibration(0.1)), (START + 2 * hour, _make_calibration(0.2))]
    times = [START - hour, START, START + hour, START + 2 * hour, START + 9 * hour]
    located = locate(_make_observations(make_video(), times), versions)
    assert located["x_m"].to_pylist() == [None, *(pytest.approx(x) for x in (10, 10, 20, 20))]
    assert located["sigma_m"].null_count == 1


def test_every_machine_but_a_train_has_a_depth():
    assert set(EventSettings().machine_classes) - set(DEPTHS_M) <= {"train"}


def test_a_wrong_depth_is_no_jitter():
    observations = _make_observations(make_video(), [START])
    index = observations.schema.get_field_index("class_name")

    def of(name: str, headings_rad: float | None = None) -> pa.Table:
        named = observations.set_column(index, observations.schema.field(index), [pa.array([name])])
        headings = None if headings_rad is None else np.array([headings_rad])
        return locate(named, [(START, _make_calibration(0.1))], headings_rad=headings)

    train, car = of("train"), of("car")
    assert car["sigma_m"][0].as_py() > train["sigma_m"][0].as_py() + 0.1
    assert jitter_m(train) == pytest.approx(train["sigma_m"].to_numpy())
    for placed in (car, of("person"), of("truck", 0.0), of("truck", 1.5)):
        assert jitter_m(placed) == pytest.approx(jitter_m(train), rel=1e-3)


def test_calibrations_are_kept_by_time(store_url):
    with open_store(store_url) as store:
        assert store.calibrations("gate") == []
        for seconds, metres_per_px in ((5, 0.2), (0, 0.1), (5, 0.3)):
            store.write_calibration(
                "gate", _make_calibration(metres_per_px).to_json(), EPOCH + timedelta(seconds=seconds)
            )
        found = calibrations(store, "gate")
        assert [(since - EPOCH).seconds for since, _ in found] == [0, 5]
        scales = [round(float(np.linalg.norm(c.image_to_ground[0, :2])), 6) for _, c in found]
        assert scales == [0.1, 0.3]
        assert store.calibration("gate") == found[1][1].to_json()
        shown = store.query("select count(*) as n from calibrations")["n"].to_pylist()
        assert shown == [1]
        rows = store.query("select valid_from from calibration_versions order by 1")["valid_from"].to_pylist()
        assert [(since - EPOCH).seconds for since in rows] == [0, 5]


def _make_walk(number: int, video: Video) -> list[dict]:
    """Four seconds of a track that moves 25 px a second, of a class without depth."""
    boxes = [(90 + i, 40, 110 + i, 200 + 40 * number) for i in range(100)]
    return [sighting(video, f"{number}", i, box, class_name="train") for i, box in enumerate(boxes)]


def test_a_calibration_that_comes_later_places_what_is_stored(store_url, tmp_path):
    video = make_video(source_id="gate", fps=25.0)
    with open_store(store_url) as store:
        make_store(tmp_path, video, [row for n in (1, 2) for row in _make_walk(n, video)], store)
        before = pa.Table.from_batches(list(store.observations(Filter(source_id="gate"))))
        for metres_per_px in (0.1, 0.2):  # and once more, when the calibration was wrong
            store.write_calibration("gate", _make_calibration(metres_per_px).to_json())
            store.relocate("gate", partial(locate, versions=calibrations(store, "gate")))
            after = pa.Table.from_batches(list(store.observations(Filter(source_id="gate"))))
            assert after["x_m"].to_numpy() == pytest.approx(before["x_px"].to_numpy() * metres_per_px)
            left = [n for n in before.column_names if n not in ("x_m", "y_m", "sigma_m")]
            assert after.select(left).equals(before.select(left))
            sampled = store.query("select x_m, x_px, speed_m_s, n_observations from samples order by ts")
            assert sampled["x_m"].to_numpy() == pytest.approx(sampled["x_px"].to_numpy() * metres_per_px)
            assert sampled["speed_m_s"].to_numpy() == pytest.approx(np.full(8, 25 * metres_per_px), rel=1e-3)
            assert sum(sampled["n_observations"].to_pylist()) == 200
            assert store.tracklets("gate").num_rows == 2
            rows = run_report(store, "speed").to_pylist()
            assert [row["mean_m_s"] for row in rows] == [pytest.approx(25 * metres_per_px, abs=0.01)]


def test_what_was_pruned_in_part_stays_where_it_was(store_url, tmp_path):
    video = make_video(source_id="gate", fps=25.0, start_time=datetime(2026, 3, 1, 23, 59, 58, tzinfo=UTC))
    with open_store(store_url) as store:
        make_store(tmp_path, video, _make_walk(1, video), store)
        store.prune(date(2026, 3, 2))
        store.relocate("gate", partial(locate, versions=[(EPOCH, _make_calibration(0.1))]))
        (kept,) = store.query("select sum(n_observations) as n, count(x_m) as located from samples").to_pylist()
        assert (int(kept["n"]), kept["located"]) == (100, 0)
        assert store.query("select count(x_m) as n from observations")["n"].to_pylist() == [0]


def test_another_sources_observations_are_left_alone(store_url, tmp_path):
    with open_store(store_url) as store:
        for source_id in ("gate", "yard"):
            video = make_video(source_id=source_id, uri=source_id, content_hash=source_id)
            make_store(tmp_path, video, _make_walk(len(source_id), video), store)
        store.relocate("gate", partial(locate, versions=[(EPOCH, _make_calibration(0.1))]))
        rows = store.query("select source_id, count(x_m) as n from observations group by source_id order by 1")
        assert rows["n"].to_pylist() == [100, 0]


def test_who_leans_stands_at_his_feet_wherever_he_is_placed(store_url, tmp_path):
    """As his chunk is committed, when the source is calibrated anew, and for events."""
    camera = Camera(width_px=640, height_px=480, focal_px=500, height_m=4, tilt_rad=0.7)
    ground_m = np.array([[-2.0, 4], [2, 4], [2, 8], [-2, 8], [0, 6]])
    points_px = camera.project(np.column_stack([ground_m, np.zeros(5)]))[0]
    box = box_of(camera, np.array([2.0, 4.0]), 0.0, (*SIZES_M["person"], 1.75))
    video = make_video(source_id="gate", fps=25.0, width_px=640, height_px=480)
    strip = Zone("strip", "zone", ((1.9, 3), (2.1, 3), (2.1, 5), (1.9, 5)), "m")
    with open_store(store_url) as store:
        make_store(tmp_path, video, [sighting(video, "a", i, box) for i in range(50)], store)
        store.write_calibration("gate", fit_homography(points_px, ground_m).to_json())
        observations = pa.Table.from_batches(list(store.observations(Filter(source_id="gate"))))
        located = locate_stored(store, "gate", observations, GeoreferenceSettings(), video)
        assert np.abs(located["x_m"].to_numpy() - 2).max() < 0.05
        relocate(store, "gate")
        stored = pa.Table.from_batches(list(store.observations(Filter(source_id="gate"))))
        assert stored["x_m"].to_numpy() == pytest.approx(located["x_m"].to_numpy())
        store.write_zones("gate", [strip])
        stitch_source(store, "gate", StitchSettings())
        kinds = [event["kind"] for event in recompute_events(store, "gate").to_pylist()]
        assert kinds.count("visit") == 1


SRT = """{n}
00:00:{s:02d},000 --> 00:00:{s:02d},999
[focal_len: 24.00] [latitude: 46.500000] [longitude: {lon:.6f}] [rel_alt: 60.0 abs_alt: 500.0] {gimbal}
"""


def _make_flight(folder: Path, gimbal: str = "[gb_yaw: 0.0 gb_pitch: -90.0 gb_roll: 0.0]") -> Video:
    """A video flown 7.6 m/s east, looking straight down, and its telemetry."""
    lines = [SRT.format(n=s + 1, s=s, lon=7.1 + s * 1e-4, gimbal=gimbal) for s in range(10)]
    (folder / "DJI_1.SRT").write_text("\n".join(lines))
    return make_video(uri=str(folder / "DJI_1.MP4"), source_id="drone", width_px=3840, height_px=2160, fps=1.0)


def test_a_drone_is_placed_by_its_telemetry(store_url, tmp_path):
    video = _make_flight(tmp_path)
    # What stays in the middle of the picture travels with the drone.
    rows = [sighting(video, "a", i, (1910, 1040, 1930, 1080), class_name="train") for i in range(10)]
    with open_store(store_url) as store:
        make_store(tmp_path, video, rows, store)
        observations = pa.Table.from_batches(list(store.observations(Filter(source_id="drone"))))
        located = locate_stored(store, "drone", observations, GeoreferenceSettings())
        x_m, y_m, sigma_m = (located[name].to_numpy() for name in ("x_m", "y_m", "sigma_m"))
        assert np.diff(x_m) == pytest.approx(np.full(9, 7.674), abs=0.01)
        assert np.abs(y_m).max() < 0.01
        assert 1.5 < sigma_m.min() <= sigma_m.max() < 2.5
        ((since, frame),) = calibrations(store, "drone")
        assert since == EPOCH
        assert frame.flies
        assert frame.origin_lonlat == (7.1, 46.5)
        assert BOUND_95 * frame.rmse_m == pytest.approx(BOUND_95 * sigma_m[0], rel=0.05)
        # The frame is kept, so the same video gives the same positions ever after.
        assert locate_stored(store, "drone", observations, GeoreferenceSettings()).equals(located)
        # So does the video itself, as a run that has just tracked it gives it.
        assert locate_stored(store, "drone", observations, GeoreferenceSettings(), video).equals(located)


@pytest.mark.parametrize(
    ("gimbal", "settings", "said"),
    [("", GeoreferenceSettings(), "lacks pitch_deg"), ("", GeoreferenceSettings(telemetry=False), None)],
)
def test_what_is_not_known_stays_unknown(tmp_path, caplog, gimbal, settings, said):
    video = _make_flight(tmp_path, gimbal)
    store = make_store(tmp_path / "store", video, [sighting(video, "a", i, (10, 10, 30, 50)) for i in range(3)])
    observations = pa.Table.from_batches(list(store.observations(Filter(source_id="drone"))))
    with caplog.at_level(logging.WARNING):
        located = locate_stored(store, "drone", observations, settings)
    assert located["x_m"].null_count == 3
    assert (said in caplog.text) if said else not caplog.text


def test_what_telemetry_misses_stays_unknown_and_is_counted(tmp_path, caplog):
    video = _make_flight(tmp_path)
    text = (tmp_path / "DJI_1.SRT").read_text().split("\n\n")
    (tmp_path / "DJI_1.SRT").write_text("\n\n".join(text[:5]))
    store = make_store(tmp_path / "store", video, [sighting(video, "a", i, (10, 10, 30, 50)) for i in range(10)])
    observations = pa.Table.from_batches(list(store.observations(Filter(source_id="drone"))))
    with caplog.at_level(logging.WARNING):
        located = locate_stored(store, "drone", observations, GeoreferenceSettings())
    assert located["x_m"].is_null().to_pylist() == [False] * 7 + [True] * 3
    assert "DJI_1.MP4: telemetry is missing for 3 of 10 observations" in caplog.text


def test_a_pitch_given_by_hand_fills_in(tmp_path):
    video = _make_flight(tmp_path, "")
    store = make_store(tmp_path / "store", video, [sighting(video, "a", i, (10, 10, 30, 50)) for i in range(3)])
    observations = pa.Table.from_batches(list(store.observations(Filter(source_id="drone"))))
    located = locate_stored(store, "drone", observations, GeoreferenceSettings(gimbal_pitch_deg=-90))
    assert located["x_m"].null_count == 0
