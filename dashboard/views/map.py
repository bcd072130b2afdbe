"""Map & plan: the ways of objects on the ground, in metres or over the world's coordinates."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd
import pydeck as pdk
import streamlit as st

from dashboard import BASEMAP_VARIABLE, clock, geography, observed, places, queries
from dashboard.parts import downloads, nothing
from dashboard.planes import one_source

COLOURINGS = ("Class", "Speed", "Time")
HEIGHT_PX = 560

st.title("Map & plan")


def legend(entries: dict[str, tuple[int, int, int]]) -> None:
    """What the colours mean, as text beside patches."""
    patches = "".join(
        f'<span style="white-space:nowrap;margin-right:1.2em"><span aria-hidden="true" style="display:inline-block;'
        f'width:.9em;height:.9em;border-radius:2px;background:rgb{rgb};margin-right:.4em"></span>{name}</span>'
        for name, rgb in entries.items()
    )
    st.html(f"<div>{patches}</div>")


def basemap(unit: str) -> dict[str, Any]:
    """What lies under the paths: nothing, or the style somebody chose; viewers' browsers then ask its host."""
    style = os.environ.get(BASEMAP_VARIABLE)
    if not style or unit != "lonlat":
        # With the style left alone no tile is asked of any host.
        return {"map_provider": None}
    return {"map_provider": "carto", "map_style": style}


def draw(source_id: str, paths: pd.DataFrame, unit: str) -> None:
    """The paths with zones under them, to be moved and zoomed; under them a basemap where one is configured."""
    kinds = st.segmented_control(
        "Colour", COLOURINGS, default="Class", key="colour", bind="query-params", required=True
    )
    uncertain = st.toggle("Uncertainty", value=True, key="uncertainty", bind="query-params")
    segments, entries = geography.coloured_segments(paths, str(kinds), queries.class_names())
    zones = geography.zones(source_id, unit)
    layers = [
        pdk.Layer(
            "PathLayer",
            zones,
            get_path="path",
            get_color=geography.rgb("#D55E00"),
            width_min_pixels=2,
            get_width=0,
            pickable=True,
        )
    ]
    if uncertain:
        layers.append(
            pdk.Layer(
                "ScatterplotLayer",
                geography.uncertainty(paths),
                get_position=["x", "y"],
                get_radius="radius",
                get_fill_color=[120, 120, 120, 25],
                radius_units="meters" if unit == "lonlat" else "common",
            )
        )
    layers.append(
        pdk.Layer(
            "PathLayer",
            segments,
            get_path="path",
            get_color="colour",
            width_min_pixels=2,
            get_width=0,
            pickable=True,
            auto_highlight=True,
        )
    )
    bar, length = geography.scale_bar(paths, unit)
    # Grey is seen on white and on black.
    of_bar = {"get_path": "path", "get_color": [128, 128, 128], "width_min_pixels": 4, "get_width": 0}
    layers.append(pdk.Layer("PathLayer", [bar], pickable=True, **of_bar))
    deck = pdk.Deck(
        layers,
        initial_view_state=geography.view_of(paths, unit, HEIGHT_PX),
        views=[pdk.View("MapView", controller=True) if unit == "lonlat" else geography.flat_view()],
        tooltip={"text": "{label}"},
        **basemap(unit),
    )
    legend(entries)
    st.pydeck_chart(deck, height=HEIGHT_PX, key=f"map-{unit}")
    shown = f"The longest {observed.MAX_PATHS} tracks at most, times in {clock.time_zone()}. The bar is {length} long."
    st.caption(f"{shown} Grey discs: one standard deviation of the position." if uncertain else shown)


of_source = one_source("the plan is the ground of")
if of_source is not None and of_source.source_id is not None:
    source_id = of_source.source_id
    ways = observed.paths(of_source, "m")
    if ways.empty and not places.has_metres(source_id):
        nothing(
            f"No ground positions are known of {source_id}: calibrate it, and events and positions are computed anew.",
            f"sightflow calibrate {source_id} --points points.csv",
        )
    elif ways.empty:
        nothing("Nobody was on the ground in this selection: widen the time range, the classes or the zones.")
    else:
        ways = geography.with_speed(ways)
        placed = geography.calibration(source_id)
        units = {"m": "Plan (m)"}
        if placed is not None and placed.origin_lonlat is not None:
            units["lonlat"] = "Map (lon/lat)"
        unit = st.segmented_control(
            "Coordinates",
            list(units),
            default="m",
            format_func=units.get,
            key="unit",
            bind="query-params",
            required=True,
        )
        shown = geography.in_degrees(ways, placed) if unit == "lonlat" and placed is not None else ways
        draw(source_id, shown, str(unit))
        as_geojson = {"geojson": lambda: geography.geojson(shown)} if unit == "lonlat" else {}
        downloads(shown, "ground-paths", **as_geojson)
