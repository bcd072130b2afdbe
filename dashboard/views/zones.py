"""Zones: draw zones and lines on a still, calibrate the ground from points, and have events computed anew."""

from __future__ import annotations

import streamlit as st

from dashboard import calibration, drawing, places
from dashboard.data import may_edit
from dashboard.parts import nothing, table
from dashboard.planes import Plane, one_source

st.title("Zones")
of_source = one_source("zones belong to")
if of_source is not None and of_source.source_id is not None:
    source_id = of_source.source_id
    if may_edit():
        drawn, calibrated = st.tabs(
            ["Zones and lines", "Calibration"], on_change="rerun", key="edit", bind="query-params"
        )
        with drawn:
            if drawn.open:
                drawing.editor(source_id)
        with calibrated:
            if calibrated.open:
                calibration.editor(source_id)
    else:
        zones = places.zones(source_id)
        if zones.empty:
            nothing(
                "This source has no zones or lines. Start the dashboard with `--edit` to draw some, or read a file:",
                f"sightflow zones {source_id} zones.yaml",
            )
        else:
            titles = {"name": "Name", "kind": "Kind", "unit": "Unit", "points": "Points"}
            table(zones, "zones", titles)
            for unit in sorted(zones["unit"].unique(), reverse=True):
                Plane(source_id, unit).show(f"zones-{unit}", "Zones and lines")
            st.caption("Start the dashboard with `--edit` to change them here.")
    drawing.history(source_id)
