"""The commands about places, on a store as a run leaves it."""

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.errors import CalibrationError, UsageError
from flows.georeference import Calibration
from flows.store import open_store
from tests.base_install import run_in_base
from tests.dashboard.filled import fill

ZONES = "zones: [{name: yard, kind: zone, points: [[0, 100], [640, 100], [640, 360], [0, 360]]}]"
POINTS = "x_px,y_px,x_m,y_m\n0,100,-20,40\n640,100,20,40\n640,360,5,8\n0,360,-5,8\n320,360,0,8\n320,100,0,40\n"


@pytest.fixture
def url(tmp_path):
    path = str(tmp_path / "store")
    with open_store(path) as store:
        fill(store)
    return path


def _sightflow(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_zones_are_set_listed_and_taken_up_again(url, tmp_path):
    (tmp_path / "zones.yaml").write_text(ZONES)
    assert "1 zones and lines" in _sightflow("zones", "gate", tmp_path / "zones.yaml", "--store", url)
    listed = _sightflow("zones", "gate", "--store", url).splitlines()
    assert [line.split()[1] for line in listed] == ["1", "2"]
    assert listed[0].endswith("entrance, kerb")
    assert listed[1].endswith("yard")
    _sightflow("zones", "gate", "--restore", 1, "--store", url)
    with open_store(url) as store:
        assert [zone.name for zone in store.zones("gate")] == ["entrance", "kerb"]
    with pytest.raises(UsageError, match=r"no zones of version 9; it has \[1, 2, 3\]"):
        _sightflow("zones", "gate", "--restore", 9, "--store", url)


def test_events_are_recomputed(url):
    assert _sightflow("events", "recompute", "--store", url).startswith("gate: ")
    with pytest.raises(UsageError, match="no video of source 'gaet' in the store; it has gate"):
        _sightflow("events", "recompute", "gaet", "--store", url)


def test_settings_decide_what_is_a_visit(url, tmp_path):
    (tmp_path / "long.yaml").write_text("events: {min_visit_seconds: 600}")
    _sightflow("events", "recompute", "gate", "--config", tmp_path / "long.yaml", "--store", url)
    with open_store(url) as store:
        assert store.query("select count(*) as n from events where kind = 'visit'")["n"].to_pylist() == [0]


def test_a_calibration_is_fitted_and_drawn(url, tmp_path):
    (tmp_path / "points.csv").write_text(POINTS)
    still, check = tmp_path / "still.png", tmp_path / "check.png"
    cv2.imwrite(str(still), np.full((360, 640, 3), 90, dtype=np.uint8))
    points = ("--points", tmp_path / "points.csv")
    said = _sightflow(
        "calibrate", "gate", *points, "--from", "2026-03-01", "--check", check, "--still", still, "--store", url
    )
    assert "6 of 6 points fit, error 0.000 m" in said
    assert cv2.imread(str(check)).std() > 5
    with open_store(url) as store:
        assert len(store.calibrations("gate")) == 2
        # `fill` stored them before there was any.
        found = store.query("select count(x_m) as located from samples where source_id = 'gate'")
        assert found["located"].to_pylist()[0] > 0
    assert "6 of 6 points fit" in _sightflow("calibrate", "gate", "--store", url)
    _sightflow("calibrate", "gate", *points, "--k1", -0.1, "--store", url)
    with open_store(url) as store:
        first = Calibration.from_json(store.calibrations("gate")[0][1])
        assert first.lens is not None
        assert first.lens.centre_px == (320, 180)


def test_what_may_be_a_mistake_is_noted(url, tmp_path):
    (tmp_path / "points.csv").write_text(POINTS.rsplit("320,360", 1)[0])
    assert "4 of 4 points fit, error unknown" in _sightflow(
        "calibrate", "gate", "--points", tmp_path / "points.csv", "--store", url
    )
    (tmp_path / "zones.yaml").write_text(
        ZONES.replace("[[0, 100], [640, 100]", "[[0, 9100], [640, 9100]").replace("360", "9360")
    )
    done = CliRunner().invoke(app, ["zones", "gate", str(tmp_path / "zones.yaml"), "--store", url])
    assert "zone 'yard' lies outside the picture" in done.stderr
    assert "no video of source 'gaet'" in CliRunner().invoke(app, ["zones", "gaet", "--store", url]).stderr


@pytest.mark.parametrize(
    ("file", "step_m"), [("a.png", 0), ("a.png", -1), ("a.png", float("nan")), ("a.png", 1e-9), ("a.pdf", 1)]
)
def test_a_grid_that_cannot_be_drawn_is_refused(url, tmp_path, file, step_m):
    (tmp_path / "points.csv").write_text(POINTS)
    still = tmp_path / "still.png"
    cv2.imwrite(str(still), np.full((360, 640, 3), 90, dtype=np.uint8))
    given = ("--points", tmp_path / "points.csv", "--still", still, "--grid-m", step_m)
    with pytest.raises(UsageError, match=r"a grid of this ground has lines every|expected the name of a picture"):
        _sightflow("calibrate", "gate", *given, "--check", tmp_path / file, "--store", url)


def test_the_base_install_places_and_stitches(url, tmp_path):
    """What touches no video needs no extra."""
    (tmp_path / "zones.yaml").write_text(ZONES)
    # The four corners of POINTS, in degrees.
    corners = [(0, 100, -20, 40), (640, 100, 20, 40), (640, 360, 5, 8), (0, 360, -5, 8)]
    rows = [f"{u},{v},{7 + x / 76_000:.7f},{46 + y / 111_000:.7f}" for u, v, x, y in corners]
    (tmp_path / "points.csv").write_text("\n".join(["x_px,y_px,lon,lat", *rows]))
    commands = (
        ("calibrate", "gate", "--points", str(tmp_path / "points.csv")),
        ("zones", "gate", str(tmp_path / "zones.yaml")),
        ("stitch", "gate"),
        ("events", "recompute"),
    )
    said = run_in_base(
        tmp_path / "packages",
        f"from flows.cli import app\nfor command in {commands!r}:\n"
        f"    app([*command, '--store', {url!r}], standalone_mode=False)",
    )
    assert "4 of 4 points fit" in said
    assert "tracks in version 1" in said
    assert "gate: " in said


def test_what_cannot_be_meant_says_so(url, tmp_path):
    (tmp_path / "points.csv").write_text(POINTS)
    points = ("--points", tmp_path / "points.csv")
    with pytest.raises(CalibrationError, match="'yard' has no calibration yet"):
        _sightflow("calibrate", "yard", "--store", url)
    with pytest.raises(UsageError, match="use one of them"):
        _sightflow("calibrate", "gate", *points, "--k1", 0.1, "--fit-lens", "--store", url)
    with pytest.raises(UsageError, match="with --points"):
        _sightflow("calibrate", "gate", "--k1", 0.1, "--store", url)
    with pytest.raises(UsageError, match="name one with --check"):
        _sightflow("calibrate", "gate", "--grid-m", 1, "--store", url)
    (tmp_path / "zones.yaml").write_text(ZONES)
    with pytest.raises(UsageError, match="use one of them"):
        _sightflow("zones", "gate", tmp_path / "zones.yaml", "--restore", 1, "--store", url)
    with pytest.raises(UsageError, match="--still"):
        _sightflow("calibrate", "nowhere", *points, "--k1", 0.1, "--store", url)
