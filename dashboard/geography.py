"""Paths on the ground as layers of a map: coloured, uncertain, in metres or in degrees."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pydeck as pdk

from dashboard import clock, places
from dashboard.data import rows
from dashboard.parts import PALETTE
from flows.georeference import Calibration, ground_positions, to_lonlat

Rgb = tuple[int, int, int]

STEPS = ("#30123b", "#4454c4", "#1ea1f2", "#24c3a4", "#7fbf4b", "#e0a020", "#e4632e", "#b11901")
"""A scale from low to high that stays readable on white and on black; lightness alone would not."""
DISCS = 1500
"""Discs of uncertainty, at most: more hide the paths."""
METRES_PER_DEGREE = 111_320.0
"""Along a meridian, and along the equator."""


def rgb(colour: str) -> Rgb:
    """`#rrggbb` as numbers."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def calibration(source_id: str) -> Calibration | None:
    """The source's newest calibration."""
    sql = "select calibration from calibrations where source_id = $source_id"
    found = rows(sql, {"source_id": source_id})
    return None if found.empty else Calibration.from_json(str(found["calibration"].iloc[0]))


def in_degrees(paths: pd.DataFrame, placed: Calibration) -> pd.DataFrame:
    """The same with x and y as longitude and latitude."""
    lonlat = to_lonlat(placed, paths[["x", "y"]].to_numpy())
    return paths.assign(x=lonlat[:, 0], y=lonlat[:, 1])


def with_speed(paths: pd.DataFrame) -> pd.DataFrame:
    """The same with `speed_m_s`, over about a second: from point to point, noise would be speed."""
    track = paths.groupby("track_id", sort=False)
    step_s = float(track["s"].diff().median())
    # Of tracks seen once there is no step.
    ahead = max(1, round(1.0 / max(step_s, 1e-3))) if np.isfinite(step_s) else 1
    way = np.hypot(*(track[axis].diff(ahead) for axis in ("x", "y")))
    speed = pd.Series(way / track["s"].diff(ahead), index=paths.index)
    return paths.assign(speed_m_s=speed.groupby(paths["track_id"]).bfill().fillna(0.0))


def coloured_segments(
    paths: pd.DataFrame, colouring: str, class_names: list[str]
) -> tuple[list[dict[str, Any]], dict[str, Rgb]]:
    """Pieces of paths of one colour each, and what the colours mean.

    Args:
        paths: track_id, class_name, s, x, y and speed_m_s, by track and time.
        colouring: Class, Speed or Time.
        class_names: all there are, so that each keeps its colour.
    """
    if colouring == "Class":
        entries = {name: rgb(PALETTE[i % len(PALETTE)]) for i, name in enumerate(class_names)}
        step = paths["class_name"]
        colours = entries
    else:
        value = paths["speed_m_s"] if colouring == "Speed" else paths["s"]
        low, high = (0.0, float(value.quantile(0.98))) if colouring == "Speed" else (float(value.min()), value.max())
        step = (np.clip((value - low) / max(high - low, 1e-9), 0, 1) * (len(STEPS) - 1)).round().astype(int)
        colours = {i: rgb(colour) for i, colour in enumerate(STEPS)}
        entries = {_words(colouring, low + i / (len(STEPS) - 1) * (high - low)): c for i, c in colours.items()}
    # A piece runs to the first point of the next, lest there be gaps.
    changes = (step != step.shift()) | (paths["track_id"] != paths["track_id"].shift())
    begins = np.flatnonzero(changes.to_numpy())
    ends = np.append(begins[1:], len(paths))
    xy, tracks, names = paths[["x", "y"]].to_numpy(), paths["track_id"].to_numpy(), paths["class_name"].to_numpy()
    speeds, steps = paths["speed_m_s"].to_numpy(), step.to_numpy()
    segments = []
    for begin, end in zip(begins, ends, strict=True):
        end += int(end < len(paths) and tracks[end] == tracks[begin])
        if end - begin > 1:
            label = f"{names[begin]} {tracks[begin][:8]}\n{speeds[begin:end].mean():.1f} m/s"
            segments.append({"path": xy[begin:end].tolist(), "colour": colours[steps[begin]], "label": label})
    return segments, entries


def _words(colouring: str, value: float) -> str:
    if colouring == "Speed":
        return f"{value:.1f} m/s"
    return f"{pd.Timestamp(value, unit='s', tz='UTC').tz_convert(clock.zone()):%m-%d %H:%M:%S}"


def uncertainty(paths: pd.DataFrame) -> list[dict[str, float]]:
    """Discs of one standard deviation about some of the points."""
    some = paths.dropna(subset=["sigma_m"]).iloc[:: max(1, len(paths) // DISCS)]
    return some[["x", "y"]].assign(radius=some["sigma_m"]).to_dict("records")


def zones(source_id: str, unit: str) -> list[dict[str, Any]]:
    """Zones and lines of a source, on the ground; those drawn on the picture as far as they lie before the horizon."""
    shapes = places.shapes(source_id, "m")
    placed = calibration(source_id)
    drawn = places.shapes(source_id, "px")
    if placed is not None and not placed.flies and len(drawn):
        xy_m, _ = ground_positions(placed, drawn[["x", "y"]].to_numpy(), 0.0)
        beyond = drawn.loc[np.isnan(xy_m).any(axis=1), "name"]
        drawn = drawn.assign(x=xy_m[:, 0], y=xy_m[:, 1])
        shapes = pd.concat([shapes, drawn[~drawn["name"].isin(beyond)]], ignore_index=True)
    if unit == "lonlat" and placed is not None and len(shapes):
        shapes = in_degrees(shapes, placed)
    return [
        {"path": of_zone[["x", "y"]].to_numpy().tolist(), "label": name}
        for name, of_zone in shapes.groupby("name", sort=True)
    ]


def scale_bar(paths: pd.DataFrame, unit: str) -> tuple[dict[str, Any], str]:
    """A bar of a round length under the paths, and its length in words."""
    low, extent = paths[["x", "y"]].min(), _extent(paths, unit)
    per_x = 1.0 if unit == "m" else METRES_PER_DEGREE * float(np.cos(np.deg2rad(low["y"])))
    longest_m = extent * per_x / 4
    power = 10.0 ** np.floor(np.log10(longest_m))
    length_m = float(power * max(step for step in (1, 2, 5) if step * power <= longest_m))
    y = float(low["y"]) - 0.06 * extent
    said = f"{length_m:g} m" if length_m < 1000 else f"{length_m / 1000:g} km"
    return {"path": [[float(low["x"]), y], [float(low["x"]) + length_m / per_x, y]], "label": said}, said


def _extent(paths: pd.DataFrame, unit: str) -> float:
    """The longer side of what the paths fill, a metre or so at least: who stands fills nothing."""
    extent = paths[["x", "y"]].max() - paths[["x", "y"]].min()
    return max(float(extent.max()), 1.0 if unit == "m" else 1e-5)


def view_of(paths: pd.DataFrame, unit: str, height_px: int) -> pdk.ViewState:
    """What shows all paths."""
    low, high = paths[["x", "y"]].min(), paths[["x", "y"]].max()
    middle, extent = (low + high) / 2, _extent(paths, unit)
    if unit == "lonlat":
        # A tile of 512 px is the world at zoom 0.
        zoom = np.log2(360 / extent * height_px / 512) - 0.5
        return pdk.ViewState(longitude=float(middle["x"]), latitude=float(middle["y"]), zoom=float(min(zoom, 21)))
    zoom = np.log2(height_px / extent) - 0.3
    return pdk.ViewState(target=[float(middle["x"]), float(middle["y"]), 0], zoom=float(zoom))


def flat_view() -> pdk.View:
    """A plan in metres, y upwards."""
    return pdk.View("OrthographicView", controller=True, flipY=False)


def geojson(paths: pd.DataFrame) -> bytes:
    """Paths in degrees as GeoJSON (RFC 7946)."""
    features = [
        {
            "type": "Feature",
            "properties": {"track_id": track_id, "class_name": str(way["class_name"].iloc[0])},
            "geometry": {"type": "LineString", "coordinates": way[["x", "y"]].to_numpy().tolist()},
        }
        for track_id, way in paths.groupby("track_id", sort=True)
        if len(way) > 1
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}).encode()
