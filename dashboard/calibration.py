"""The editor of a calibration: points typed, fitted, drawn as a grid on the still, and only then saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import drawing, geography, places, stills
from dashboard.parts import boxes, nothing, table
from flows.calibrate import LENS_POINTS, ControlPoints, fit_homography, fit_with_lens
from flows.errors import CalibrationError
from flows.georeference import Calibration, to_pixels
from flows.locate import relocate
from flows.store import Store

COLUMNS = ("x_px", "y_px", "x_m", "y_m")
FORMATS = {"px": "%.1f", "m": "%.3f"}
LEAST_POINTS = 4


def editor(source_id: str) -> None:
    """Control points in a table, the fit they give, and saving it."""
    st.caption(
        "Places that you find in the picture and know on the ground: pixels from the picture's upper left corner, "
        "metres from any point of your choice. At least four, far apart, no three on a line; more show how well they "
        "fit."
    )
    before = geography.calibration(source_id)
    if before is not None and before.flies:
        nothing("This source flies: telemetry places it, and no one calibration fits all of its pictures.")
        return
    # The editor counts changes from what it was given first.
    given = st.session_state.setdefault(f"points-of-{source_id}", _points(before))
    edited = st.data_editor(
        given,
        num_rows="dynamic",
        key=f"control-{source_id}",
        hide_index=True,
        column_config=_titles(required=True),
    ).dropna()
    lens = st.toggle("Fit the lens as well", key="fit_lens", disabled=len(edited) < LENS_POINTS)
    if len(edited) < LEAST_POINTS:
        nothing(f"{len(edited)} points so far: {LEAST_POINTS} are needed.")
        return
    try:
        fitted = _fitted(source_id, edited, before, lens)
    except CalibrationError as error:
        st.warning(str(error), icon=":material/square_foot:")
        return
    _show(source_id, fitted, edited)
    if st.button("Save and compute events anew", key="save_calibration", type="primary", icon=":material/save:"):
        drawing.write(source_id, lambda store: _save(store, source_id, fitted))


def _titles(**options: Any) -> dict[str, Any]:
    """The columns of control points as tables show them."""
    parts = {name: name.split("_") for name in COLUMNS}
    return {
        name: st.column_config.NumberColumn(f"{axis} ({unit})", format=FORMATS[unit], **options)
        for name, (axis, unit) in parts.items()
    }


def _save(store: Store, source_id: str, fitted: Calibration) -> None:
    store.write_calibration(source_id, fitted.to_json())
    relocate(store, source_id)


def _points(known: Calibration | None) -> pd.DataFrame:
    """The points of the calibration there is, to go on with."""
    values = np.empty((0, 4)) if known is None else np.hstack([known.points_px, known.points_m])
    return pd.DataFrame(values, columns=list(COLUMNS))


def _fitted(source_id: str, points: pd.DataFrame, before: Calibration | None, lens: bool) -> Calibration:
    points_px, points_m = points[["x_px", "y_px"]].to_numpy(), points[["x_m", "y_m"]].to_numpy()
    origin_lonlat = None if before is None else before.origin_lonlat
    size_px = places.picture_size(source_id)
    if lens and size_px is not None:
        return fit_with_lens(ControlPoints(points_px, points_m, origin_lonlat), round(size_px[0]), round(size_px[1]))
    return fit_homography(points_px, points_m, origin_lonlat)


def _show(source_id: str, fitted: Calibration, points: pd.DataFrame) -> None:
    """How well the points fit, and the ground's grid as the camera would see it."""
    used = int(fitted.inliers.sum())
    boxes({"Error at the points": f"{fitted.rmse_m:.3f} m", "Points used": f"{used} of {len(points)}"})
    apart_px = np.hypot(*(to_pixels(fitted, fitted.points_m) - fitted.points_px).T)
    rows = points.assign(apart_px=apart_px, used=fitted.inliers)
    named = {**_titles(), "apart_px": st.column_config.NumberColumn("Off by (px)", format="%.1f"), "used": "Used"}
    table(rows, "control-points", named)
    picture = stills.first_picture(source_id)
    if picture is None:
        stills.no_picture_note(source_id)
        return
    from flows.metre_grid import check_picture

    image, step_m = check_picture(np.asarray(picture), fitted)
    st.image(image, caption=f"The ground's grid of {step_m:g} m, as the camera sees it by this calibration")
