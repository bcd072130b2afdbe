"""DJI subtitle files -> where a drone's camera was and where it looked, at every moment of its video.

DJI writes a block of text per frame, or per second, in a form that changed over the years:

- bracketed: `[latitude: 46.5] [longitude: 7.1] [rel_alt: 60.0 abs_alt: 500.0] [gb_yaw: 12 gb_pitch: -90 gb_roll: 0]`
- legacy: `GPS(7.1,46.5,19) BAROMETER:60.2`, without any angle; longitude first, but latitude first where the third
  number carries an M (Matrice 300)
- P4RTK: `GPS (7.1, 46.5, 19), ..., H 60.2m, ..., G.PRY (-90.0°, 0.0°, 12.0°)`, also with RTK for GPS

What a block does not say is NaN, not a guess; a heading may be taken from the course flown (`Telemetry.with_course`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from flows.errors import TelemetryError
from flows.georeference import Floats, from_lonlat
from flows.schema import NS

_NUMBER = r"([-+]?\d+(?:\.\d+)?)"
_TIME = re.compile(r"(\d+):(\d\d):(\d\d)[,.](\d{3})\s*-->")
_DJI_TRIPLE = re.compile(rf"\b(?:GPS|RTK)\s*\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*(?:,\s*{_NUMBER}\s*(M?)\s*)?\)")
_G_PRY = re.compile(rf"G\.PRY\s*\(\s*{_NUMBER}°?\s*,\s*{_NUMBER}°?\s*,\s*{_NUMBER}°?\s*\)")
# Field -> where it may stand, the first that is found counts.
_FIELDS = {
    "lat_deg": (rf"\[latitude\s*:\s*{_NUMBER}",),
    "lon_deg": (rf"\[longt?itude\s*:\s*{_NUMBER}",),  # some firmware writes "longtitude"
    "height_m": (rf"\brel_alt\s*:\s*{_NUMBER}", rf"BAROMETER\s*:\s*{_NUMBER}", rf"(?<![.\w])H\s+{_NUMBER}\s*m\b"),
    "yaw_deg": (rf"\bgb_yaw\s*:\s*{_NUMBER}",),
    "pitch_deg": (rf"\bgb_pitch\s*:\s*{_NUMBER}",),
    "roll_deg": (rf"\bgb_roll\s*:\s*{_NUMBER}",),
    "focal_35mm": (rf"\[focal_len\s*:\s*{_NUMBER}",),
}
_PATTERNS = {name: [re.compile(p, re.IGNORECASE) for p in patterns] for name, patterns in _FIELDS.items()}

_LONGEST_FOCAL_35MM = 170.0
"""Beyond this, `focal_len` is in tenths of a millimetre, as several models write it (240 for 24 mm)."""
REACH_NS = 2 * NS
"""Blocks come once a second at least; from a moment further from any of them a drone may be anywhere."""
_COURSE_SECONDS = 2.0
_COURSE_LEAST_M_S = 1.0
"""Slower than this over `_COURSE_SECONDS`, the course says nothing about where a drone points."""
_METRES_PER_DEGREE = 111_320.0


@dataclass(frozen=True, eq=False)
class Telemetry:
    """Poses by time, (N,) arrays, N >= 1; NaN where the file says nothing.

    `lon_deg`, `lat_deg` WGS 84; `height_m` above the place of take-off; `yaw_deg` of the camera clockwise from north,
    `pitch_deg` 0 at the horizon and -90 straight down, `roll_deg` positive where the right side hangs;
    `focal_35mm` in millimetres on a 35 mm film of the same diagonal. `step_m` is the grid on which positions were
    rounded.
    """

    pts_ns: npt.NDArray[np.int64]
    lon_deg: Floats
    lat_deg: Floats
    height_m: Floats
    yaw_deg: Floats
    pitch_deg: Floats
    roll_deg: Floats
    focal_35mm: Floats
    step_m: float

    @property
    def origin_lonlat(self) -> tuple[float, float]:
        """Where it began."""
        return float(self.lon_deg[0]), float(self.lat_deg[0])

    def with_course(self) -> Telemetry:
        """The same with the course flown for a yaw that is not known; NaN where the drone stood still all the time."""
        if np.isfinite(self.yaw_deg).all():
            return self
        t_s = self.pts_ns / NS
        xy_m = from_lonlat(self.origin_lonlat, np.stack([self.lon_deg, self.lat_deg], axis=1))
        before, after = (np.clip(t_s + s * _COURSE_SECONDS / 2, t_s[0], t_s[-1]) for s in (-1, 1))
        way = [np.interp(after, t_s, c) - np.interp(before, t_s, c) for c in xy_m.T]
        moves = np.hypot(*way) >= _COURSE_LEAST_M_S * np.maximum(after - before, 1e-9)
        moves &= np.hypot(*way) > 2 * self.step_m
        if not moves.any():
            return self
        course = np.unwrap(np.arctan2(way[0], way[1])[moves])
        filled = np.degrees(np.interp(t_s, t_s[moves], course))
        return replace(self, yaw_deg=np.where(np.isfinite(self.yaw_deg), self.yaw_deg, filled))

    def at(self, pts_ns: npt.NDArray[np.int64]) -> Telemetry:
        """Poses at other times (M,), interpolated; NaN more than `REACH_NS` from any block."""
        after = np.clip(np.searchsorted(self.pts_ns, pts_ns), 0, len(self.pts_ns) - 1)
        away_ns = np.minimum(*(np.abs(self.pts_ns[i] - pts_ns) for i in (np.maximum(after - 1, 0), after)))

        def moved(values: Floats) -> Floats:
            return np.where(away_ns <= REACH_NS, np.interp(pts_ns, self.pts_ns, values), np.nan)

        def turned(degrees: Floats) -> Floats:
            return np.degrees(moved(np.unwrap(np.radians(degrees))))

        return Telemetry(
            pts_ns,
            moved(self.lon_deg),
            moved(self.lat_deg),
            moved(self.height_m),
            turned(self.yaw_deg),
            turned(self.pitch_deg),
            turned(self.roll_deg),
            moved(self.focal_35mm),
            self.step_m,
        )


def read_srt(text: str, name: str) -> Telemetry:
    """Read the text of a DJI subtitle file.

    Args:
        text: of the file.
        name: of it, for messages.

    Raises:
        TelemetryError: no block with a time and a position; what came is shown.
    """
    rows, digits = [], 0
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        time = _TIME.search(block)
        position = _position(block)
        if time is None or position is None:
            continue
        hours, minutes, seconds, milliseconds = (int(part) for part in time.groups())
        pts_ns = ((hours * 60 + minutes) * 60 + seconds) * NS + milliseconds * (NS // 1000)
        digits = max(digits, *(len(part.partition(".")[2]) for part in position))
        place = (float(position[0]), float(position[1]))
        # Before the satellites are found, DJI writes zeros.
        if place != (0.0, 0.0) and abs(place[0]) <= 180 and abs(place[1]) <= 90:
            rows.append((pts_ns, *place, *_angles(block)))
    if not rows:
        shown = " ".join(text.split())[:120]
        raise TelemetryError(f"{name}: no DJI telemetry with positions in it; it begins with {shown!r}")
    columns = np.array(rows, dtype=np.float64).T
    # By time, whatever their order in the file, and the first of each.
    times_ns, kept = np.unique(columns[0].astype(np.int64), return_index=True)
    lon, lat, height, yaw, pitch, roll, focal = columns[1:, kept]
    focal = np.where(focal > _LONGEST_FOCAL_35MM, focal / 10, focal)
    return Telemetry(times_ns, lon, lat, height, yaw, pitch, roll, focal, _METRES_PER_DEGREE / 10.0**digits)


def beside(uri: str) -> Telemetry | None:
    """The telemetry of a video: the subtitle file of its name beside it; None where there is none.

    Raises:
        TelemetryError: a subtitle file that holds no telemetry.
    """
    import fsspec

    stem = uri[: len(uri) - len(PurePosixPath(uri).suffix)]
    for candidate in (f"{stem}.SRT", f"{stem}.srt"):
        try:
            with fsspec.open(candidate, "rb") as file:
                content: bytes = file.read()
        except (OSError, ValueError):
            continue
        return read_srt(content.decode("utf-8", errors="replace"), candidate)
    return None


def _position(block: str) -> tuple[str, str] | None:
    """Longitude and latitude as they are written."""
    if triple := _DJI_TRIPLE.search(block):
        first, second, _, metres = triple.groups()
        return (second, first) if metres else (first, second)
    lon, lat = _written(block, "lon_deg"), _written(block, "lat_deg")
    return (lon, lat) if lon is not None and lat is not None else None


def _angles(block: str) -> tuple[float, ...]:
    """Height, yaw, pitch, roll and focal length; NaN for what is not there."""

    def number(name: str) -> float:
        written = _written(block, name)
        return np.nan if written is None else float(written)

    if gimbal := _G_PRY.search(block):
        pitch, roll, yaw = (float(part) for part in gimbal.groups())
    else:
        yaw, pitch, roll = (number(name) for name in ("yaw_deg", "pitch_deg", "roll_deg"))
    return number("height_m"), yaw, pitch, roll, number("focal_35mm")


def _written(block: str, name: str) -> str | None:
    for pattern in _PATTERNS[name]:
        if match := pattern.search(block):
            return match[1]
    return None
