"""The editor of zones and lines: points chosen on a still with the mouse, or typed; saved as a new version."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import altair as alt
import pandas as pd
import shapely
import streamlit as st

from dashboard import clock, places
from dashboard.data import may_edit, writing
from dashboard.parts import nothing, table
from dashboard.planes import Plane, sideways
from flows.config import Settings
from flows.errors import SightflowError
from flows.events import recompute_events
from flows.store import Store, Zone

GRID = 40
"""Places along the picture's longer side that can be clicked; what is wanted finer is typed."""
COLUMNS = ("name", "kind", "unit", "x", "y")


def editor(source_id: str) -> None:
    """Points of all zones in one table beside the picture; a click on the picture adds one."""
    key = f"points-{source_id}"
    if key not in st.session_state:
        st.session_state[key] = _points(source_id)
    st.caption(
        "Rows in order are the corners of a zone (closed by itself) or the points of a line. Draw where feet and "
        "wheels are. Forward is from the left of a line to its right, as it runs from its first point to its last."
    )
    named, kinds = st.columns([3, 2])
    name = named.text_input("Name of what is drawn", "zone 1", key="draw_name").strip()
    kind = kinds.segmented_control("Kind", ["zone", "line"], default="zone", key="draw_kind", required=True)
    picture = st.container()
    edited = st.data_editor(
        st.session_state[key],
        num_rows="dynamic",
        key=f"editor-{source_id}-{st.session_state.get('clicks', 0)}",
        hide_index=True,
        column_config={
            "name": st.column_config.TextColumn("Name", required=True),
            "kind": st.column_config.SelectboxColumn("Kind", options=["zone", "line"], required=True),
            "unit": st.column_config.SelectboxColumn("Unit", options=["px", "m"], required=True),
            "x": st.column_config.NumberColumn("x", required=True, format="%.1f"),
            "y": st.column_config.NumberColumn("y", required=True, format="%.1f"),
        },
    )
    with picture:
        clicked = _picture(source_id, edited)
    if clicked is not None and name:
        point = {"name": name, "kind": kind, "unit": "px", **clicked}
        st.session_state[key] = pd.concat([edited, pd.DataFrame([point])], ignore_index=True)
        st.session_state["clicks"] = st.session_state.get("clicks", 0) + 1
        st.rerun()
    _save(source_id, edited)


def _points(source_id: str) -> pd.DataFrame:
    zones = places.zones(source_id)
    points = [
        (zone.name, zone.kind, zone.unit, x, y) for zone in zones.itertuples() for x, y in json.loads(str(zone.points))
    ]
    frame = pd.DataFrame(points, columns=list(COLUMNS))
    return frame.astype({"name": str, "kind": str, "unit": str, "x": float, "y": float})


def _picture(source_id: str, points: pd.DataFrame) -> dict[str, float] | None:
    """The still with what is drawn; the place that was clicked."""
    width_px, height_px = places.picture_size(source_id) or (1920.0, 1080.0)
    plane = Plane(source_id, "px")
    plane.outline(points[points["unit"] == "px"].dropna())
    step = max(width_px, height_px) / GRID
    grid = [
        (x * step + step / 2, y * step + step / 2)
        for x in range(int(width_px // step))
        for y in range(int(height_px // step))
    ]
    click = alt.selection_point(name="click", fields=["x", "y"], on="click", empty=False)
    targets = alt.Chart(pd.DataFrame(grid, columns=["x", "y"])).mark_square(size=260, opacity=0.01)
    drawn = plane.drawing(targets.encode(x=plane.x, y=plane.y, tooltip=["x:Q", "y:Q"]).add_params(click))
    with sideways("drawing"):
        event: Any = st.altair_chart(
            drawn,
            key=f"draw-{source_id}-{st.session_state.get('clicks', 0)}",
            on_select="rerun",
            selection_mode="click",
            width="content",
            alt="The picture to draw on",
        )
    chosen = event.selection.get("click", []) if event else []
    return {axis: float(chosen[0][axis]) for axis in ("x", "y")} if chosen else None


def zones_of(points: pd.DataFrame) -> list[Zone]:
    """Zones from rows of points.

    Raises:
        ValueError: too few points, a kind or unit there is none of, or an edge that crosses itself.
    """
    zones = []
    for name, rows in points.dropna().groupby("name", sort=False):
        if rows["kind"].nunique() > 1 or rows["unit"].nunique() > 1:
            raise ValueError(f"{name!r} must be of one kind and unit in all its rows")
        corners = tuple((float(x), float(y)) for x, y in zip(rows["x"], rows["y"], strict=True))
        zone = Zone(str(name), str(rows["kind"].iloc[0]), corners, str(rows["unit"].iloc[0]))
        if zone.kind == "zone" and not shapely.is_valid(shapely.polygons(corners)):
            raise ValueError(f"the edge of {name!r} crosses itself")
        zones.append(zone)
    return zones


def _save(source_id: str, points: pd.DataFrame) -> None:
    try:
        zones = zones_of(points)
    except ValueError as error:
        st.warning(str(error), icon=":material/fence:")
        return
    if st.button("Save and compute events anew", key="save_zones", type="primary", icon=":material/save:"):
        write(source_id, lambda store: store.write_zones(source_id, zones))


def write(source_id: str, change: Callable[[Store], None]) -> None:
    """Change where a source's places are, compute its events anew, and show what that does to their counts."""
    settings = Settings.load()
    before = places.event_counts(source_id)
    try:
        with st.spinner("Computing events…"), writing() as store:
            change(store)
            recompute_events(store, source_id, settings.events, settings.georeference)
    except SightflowError as error:
        st.error(str(error), icon=":material/error:")
        return
    st.session_state.pop(f"points-{source_id}", None)
    counts = before.merge(places.event_counts(source_id), on="kind", how="outer", suffixes=("_before", "_now"))
    st.success("Saved. Events of each kind, before and now:", icon=":material/check:")
    table(counts.fillna(0), "effect", {"kind": "Event", "n_before": "Before", "n_now": "Now"})


def history(source_id: str) -> None:
    """Every set of zones the source was given; one can be taken up again."""
    with st.expander("Versions of the zones"):
        versions = places.zone_versions(source_id)
        if versions.empty:
            nothing("None were given yet.")
            return
        names = {"version": "Version", "written_at": clock.when("Written"), "names": "Zones and lines"}
        table(versions, "zone-versions", names)
        older = versions["version"].tolist()[1:]
        if not may_edit() or not older:
            return
        version = st.selectbox("Version", older, key="zone_version")
        if st.button("Take it up again", key="restore_zones", icon=":material/undo:"):
            with writing() as store:
                known = {found.version: found.zones for found in store.zone_versions(source_id)}
            write(source_id, lambda store: store.write_zones(source_id, known[int(version)]))
