import numpy as np
import pytest

from flows.errors import TelemetryError
from flows.schema import NS
from flows.telemetry import Telemetry, beside, read_srt

BRACKETED = """1
00:00:00,000 --> 00:00:00,033
<font size="28">FrameCnt: 1, DiffTime: 33ms
2026-03-08 10:12:34.123
[iso: 100] [shutter: 1/640.0] [fnum: 2.8] [focal_len: 24.00] [latitude: 46.512345] [longitude: 7.123456]
[rel_alt: 60.100 abs_alt: 520.500] [gb_yaw: -170.5 gb_pitch: -90.0 gb_roll: 0.1] </font>

2
00:00:00,033 --> 00:00:00,066
<font size="28">FrameCnt: 2, DiffTime: 33ms
2026-03-08 10:12:34.156
[iso: 100] [focal_len: 24.00] [latitude: 46.512346] [longitude: 7.123457]
[rel_alt: 60.200 abs_alt: 520.600] [gb_yaw: 175.5 gb_pitch: -89.0 gb_roll: 0.0] </font>
"""
MISSPELT = BRACKETED.replace("[longitude: ", "[longtitude : ").replace("focal_len: 24.00", "focal_len : 240")
LEGACY = """1
00:00:00,000 --> 00:00:01,000
HOME(7.1230,46.5123) 2019.01.01 12:00:00
GPS(7.1234,46.5123,19) BAROMETER:60.2
ISO:100 Shutter:60 EV:0 Fnum:F2.8

2
00:00:01,000 --> 00:00:02,000
HOME(7.1230,46.5123) 2019.01.01 12:00:01
GPS(7.1236,46.5123,19) BAROMETER:60.4
"""
MATRICE = "1\n00:00:00,000 --> 00:00:01,000\n2022.06.21 16:06:17\nGPS(46.5123,7.1234,0.0M) BAROMETER:0.3M\n"
P4RTK = """36
00:00:35,000 --> 00:00:36,000
F/6.3, SS 60, ISO 100, EV 0, RTK (7.123456, 46.512345, 28), HOME (7.123400, 46.512300, 103.55m), D 75.36m, H 76.19m, \
H.S 0.30m/s, V.S 0.00m/s, F.PRY (-5.3°, 2.1°, 28.3°), G.PRY (-40.0°, 0.5°, 28.2°)
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BRACKETED, (0, 7.123456, 46.512345, 60.1, -170.5, -90.0, 0.1, 24.0)),
        (MISSPELT, (0, 7.123456, 46.512345, 60.1, -170.5, -90.0, 0.1, 24.0)),
        (LEGACY, (0, 7.1234, 46.5123, 60.2, np.nan, np.nan, np.nan, np.nan)),
        (MATRICE, (0, 7.1234, 46.5123, 0.3, np.nan, np.nan, np.nan, np.nan)),
        (P4RTK, (35 * NS, 7.123456, 46.512345, 76.19, 28.2, -40.0, 0.5, np.nan)),
    ],
    ids=["bracketed", "misspelt", "legacy", "matrice", "p4rtk"],
)
def test_every_form_is_read(text, expected):
    t = read_srt(text.replace("\n", "\r\n"), "a.srt")
    fields = (t.pts_ns, t.lon_deg, t.lat_deg, t.height_m, t.yaw_deg, t.pitch_deg, t.roll_deg, t.focal_35mm)
    assert [float(values[0]) for values in fields] == pytest.approx(expected, nan_ok=True)


def test_positions_of_few_digits_say_how_coarse_they_are():
    assert read_srt(LEGACY, "a.srt").step_m == pytest.approx(11.1, abs=0.1)
    assert read_srt(BRACKETED, "a.srt").step_m == pytest.approx(0.11, abs=0.01)


def test_angles_are_interpolated_the_short_way_round():
    between = read_srt(BRACKETED, "a.srt").at(np.array([16_500_000]))
    assert between.yaw_deg[0] % 360 == pytest.approx(182.5)
    assert between.height_m[0] == pytest.approx(60.15)


def test_the_course_stands_in_for_a_heading_nobody_wrote():
    """Ten seconds east, then ten north, at 5 m/s."""
    seconds = np.arange(21)
    east, north = np.minimum(seconds, 10) * 5.0, np.maximum(seconds - 10, 0) * 5.0
    unknown = np.full(21, np.nan)
    flown = Telemetry(
        seconds * NS, 7 + east / 76_400, 46.5 + north / 111_200, unknown, unknown, unknown, unknown, unknown, 0.1
    ).with_course()
    assert flown.yaw_deg[[2, 18]] == pytest.approx([90, 0], abs=1)


def test_a_drone_that_hovers_has_no_course():
    hovering = read_srt(MATRICE, "a.srt").with_course()
    assert np.isnan(hovering.yaw_deg).all()


def test_a_place_that_flickers_by_its_last_digit_is_no_course():
    east = [0, 0, 1, 1, 0, 0, 1, 1]
    blocks = (f"00:00:{s:02d},000 --> x\nGPS(7.123{e},46.5123,19) BAROMETER:60" for s, e in enumerate(east))
    assert np.isnan(read_srt("\n\n".join(blocks), "a.srt").with_course().yaw_deg).all()


def test_zeros_before_the_satellites_are_found_are_no_positions():
    start = LEGACY.replace("GPS(7.1234,46.5123,19)", "GPS(0.0000,0.0000,0)", 1)
    assert read_srt(start, "a.srt").pts_ns.tolist() == [NS]


def test_blocks_in_any_order_are_read_by_time():
    """A block out of place in the file bends nothing."""
    times = [0, 1, 5, 3, 4, 3, 6]
    blocks = (f"00:00:0{s},000 --> x\nGPS(7.{s:04d},46.5,19) BAROMETER:60.{i}" for i, s in enumerate(times))
    read = read_srt("\n\n".join(blocks), "a.srt")
    assert (read.pts_ns // NS).tolist() == [0, 1, 3, 4, 5, 6]
    assert read.lon_deg == pytest.approx(7 + np.array([0, 1, 3, 4, 5, 6]) * 1e-4)
    assert read.height_m[2] == 60.3


def test_far_from_any_block_nothing_is_known():
    blocks = (f"00:00:{s:02d},000 --> x\nGPS(7.{s:04d},46.5,19) BAROMETER:60" for s in (10, 11, 30))
    at = read_srt("\n\n".join(blocks), "a.srt").at(np.array([7.9, 8.1, 11.5, 13.1, 20, 28.1, 32.1]) * NS)
    assert np.isnan(at.lon_deg).tolist() == [True, False, False, True, True, False, True]


def test_what_is_no_place_on_earth_is_none():
    with pytest.raises(TelemetryError, match="no DJI telemetry with positions"):
        read_srt(LEGACY.replace("46.5123", "146.5123"), "a.srt")


@pytest.mark.parametrize("text", ["", "1\n00:00:00,000 --> 00:00:02,000\nHello, said the fox.\n"])
def test_subtitles_without_telemetry_are_named(text):
    with pytest.raises(TelemetryError, match=r"film\.SRT: no DJI telemetry"):
        read_srt(text, "film.SRT")


def test_the_file_beside_a_video_is_found(tmp_path):
    assert beside(str(tmp_path / "DJI_0001.MP4")) is None
    (tmp_path / "DJI_0001.srt").write_text(BRACKETED)
    found = beside(str(tmp_path / "DJI_0001.MP4"))
    assert found is not None
    assert found.pts_ns.tolist() == [0, 33_000_000]
