import logging
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flows.calibrate import fit_homography
from flows.config import GeoreferenceSettings
from flows.flight import BOUND_95
from flows.georeference import Calibration
from flows.locate import calibrations, locate, locate_stored
from flows.schema import EPOCH, OBSERVATIONS, Video
from flows.store import Filter, open_store
from tests.stores import START, make_video
from tests.tracked import make_store, sighting

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
    rows = [sighting(video, "a", i, (1910, 1040, 1930, 1080)) for i in range(10)]
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
