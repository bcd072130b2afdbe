"""What the camera sees and the ground it stands on, drawn to scale: paths, heat, zones, over a still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import places, queries, stills
from dashboard.filters import Selection, selection
from dashboard.parts import chart, coloured, nothing

WIDTH_PX = 760
UNITS = {"px": "Picture (px)", "m": "Ground (m)"}
OUTLINE, LABEL = "#D55E00", "#A34700"


def one_source(what: str) -> Selection | None:
    """The selection of one source: the chosen one, or the only one; None, and a hint, where that is open."""
    chosen = selection()
    sources = queries.sources()
    if chosen.source_id is None and len(sources) != 1:
        nothing(f"Choose a source in the filter: {what} one camera's picture.")
        return None
    return chosen.of_source(chosen.source_id or sources[0])


def plane_choice(source_id: str) -> str:
    """The unit to draw in: the picture's pixels, or metres where the source has them."""
    if not places.has_metres(source_id):
        return "px"
    return str(
        st.segmented_control(
            "Plane", list(UNITS), default="px", format_func=UNITS.get, key="plane", bind="query-params", required=True
        )
    )


class Plane:
    """Layers in one unit: `px` as the camera sees (y down), `m` on the ground (y up)."""

    def __init__(self, source_id: str, unit: str, *drawn: pd.DataFrame) -> None:
        """Set the frame.

        Args:
            source_id: whose zones are outlined, and whose picture lies behind in pixels.
            unit: `px` or `m`.
            drawn: frames with columns x and y that must fit.
        """
        self._unit = unit
        self._shapes = places.shapes(source_id, unit)
        everything = pd.concat([frame[["x", "y"]] for frame in (*drawn, self._shapes)])
        low, high = everything.min(), everything.max()
        size_px = places.picture_size(source_id) if unit == "px" else None
        if size_px is not None:
            low, high = pd.Series({"x": 0.0, "y": 0.0}), pd.Series({"x": size_px[0], "y": size_px[1]})
        extent = (high - low).clip(lower=1e-6)
        self._height = float(min(max(WIDTH_PX * extent["y"] / extent["x"], 120), 900))
        x_scale = alt.Scale(domain=[low["x"], high["x"]], nice=False)
        y_scale = alt.Scale(domain=[low["y"], high["y"]], nice=False, reverse=unit == "px")
        self._axes = {"x": {"title": f"x ({unit})", "scale": x_scale}, "y": {"title": f"y ({unit})", "scale": y_scale}}
        self.x, self.y = alt.X("x:Q", **self._axes["x"]), alt.Y("y:Q", **self._axes["y"])
        self._layers: list[alt.Chart] = []
        still = stills.still_url(source_id) if unit == "px" else None
        if still is not None:
            corners = pd.DataFrame([{"x": 0.0, "y": 0.0, "x2": high["x"], "y2": high["y"], "url": still}])
            image = alt.Chart(corners).mark_image(aspect=False)
            self._layers.append(image.encode(x=self.x, y=self.y, x2="x2:Q", y2="y2:Q", url="url:N"))

    def heat(self, cells: pd.DataFrame, cell: float) -> Plane:
        """Seconds of presence per square cell: x, y (its corner), seconds, tracks."""
        ends = cells.assign(x2=cells["x"] + cell, y2=cells["y"] + cell)
        x = alt.X("x:Q", bin="binned", **self._axes["x"])
        y = alt.Y("y:Q", bin="binned", **self._axes["y"])
        scheme = alt.Scale(scheme="viridis", type="sqrt")
        tooltip = [alt.Tooltip("seconds:Q", format=".1f"), "tracks:Q"]
        self._layers.append(
            alt.Chart(ends)
            .mark_rect(opacity=0.6, clip=True)
            .encode(
                x=x,
                x2="x2:Q",
                y=y,
                y2="y2:Q",
                color=alt.Color("seconds:Q", title="Presence (s)", scale=scheme, legend=alt.Legend(orient="top")),
                tooltip=tooltip,
            )
        )
        return self

    def paths(self, paths: pd.DataFrame, faint: pd.DataFrame | None = None) -> Plane:
        """Ways of tracks by class: track_id, class_name, s (order), x, y; others in grey behind."""
        if faint is not None and len(faint):
            behind = alt.Chart(faint).mark_line(strokeWidth=1, opacity=0.35, color="#888888", clip=True)
            self._layers.append(behind.encode(x=self.x, y=self.y, detail="track_id:N", order="s:Q"))
        line = alt.Chart(paths).mark_line(strokeWidth=2, opacity=0.85, clip=True)
        tooltip = [alt.Tooltip("track_id:N", title="track"), alt.Tooltip("class_name:N", title="class")]
        colour = coloured("class_name", "Class", queries.class_names())
        self._layers.append(
            line.encode(x=self.x, y=self.y, detail="track_id:N", order="s:Q", color=colour, tooltip=tooltip)
        )
        return self

    def outline(self, points: pd.DataFrame) -> Plane:
        """Draw these zones and lines instead of the stored ones: name, kind, x, y, in order."""
        self._shapes = places.closed(points)
        return self

    def drawing(self, *more: alt.Chart) -> alt.LayerChart:
        """All layers to scale, zones and lines on top, and then some."""
        layers = list(self._layers)
        if len(self._shapes):
            outline = alt.Chart(self._shapes).mark_line(strokeWidth=2, strokeDash=[6, 4], color=OUTLINE, clip=True)
            named = {"detail": "name:N", "order": "order:Q", "tooltip": ["name:N", "kind:N"]}
            layers.append(outline.encode(x=self.x, y=self.y, **named))
            labels = alt.Chart(self._shapes[self._shapes["order"] == 0])
            placed = {"align": "left", "dx": 5, "dy": -9, "fontSize": 13, "fontWeight": "bold"}
            # On a picture no one colour is readable everywhere: a white edge lies behind the letters.
            for look in ({"stroke": "white", "strokeWidth": 4, "strokeJoin": "round"}, {}):
                text = labels.mark_text(color=LABEL, **placed, **look)
                layers.append(text.encode(x=self.x, y=self.y, text="name:N"))
        # Not fitted: legends and axes lie outside, and the picture keeps its shape.
        size = {"width": WIDTH_PX, "height": self._height, "autosize": alt.AutoSizeParams(type="pad")}
        return alt.layer(*layers, *more).properties(**size)

    def show(self, name: str, said: str, frame: pd.DataFrame | None = None) -> None:
        """Draw it."""
        with sideways(name):
            chart(self.drawing(), name, said, frame, width="content")


@contextmanager
def sideways(name: str) -> Iterator[None]:
    """What is drawn to scale and is wider than a phone is moved inside its own frame, not the page."""
    st.html("<style>[class*=st-key-sideways] { overflow-x: auto; }</style>")
    with st.container(key=f"sideways-{name}"):
        yield
