"""Short pieces of video with what was found drawn on them, made when somebody asks."""

from __future__ import annotations

import importlib.util
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard.data import reading, store_url
from dashboard.stills import can_decode, hidden_classes
from flows.errors import SightflowError

CLIP_S = 4.0
"""Length of a clip: enough to see what happened, and drawn in a second or two."""
WIDTH_PX = 960
"""Of a clip: as wide as it is shown beside the timeline; encoding full HD would take twice as long."""
KEPT = 40
"""Clips kept on disk, the last ones asked for."""


def show_clip(video_id: str, t0: datetime) -> None:
    """A clip that begins at a world time, or why there is none."""
    if not can_decode() or importlib.util.find_spec("pycocotools") is None:
        st.info("Clips need the extra `video`: `pip install 'sightflow[video]'`.", icon=":material/movie:")
        return
    try:
        with st.spinner("Cutting the clip…"):
            data = _clip(store_url(), hidden_classes(), video_id, t0)
    except SightflowError as error:
        st.warning(f"No clip: {error}", icon=":material/movie:")
        return
    st.video(data, format="video/mp4", muted=True, autoplay=True)


@st.cache_data(show_spinner=False, max_entries=KEPT)
def _clip(url: str, hidden: tuple[str, ...], video_id: str, t0: datetime) -> bytes:
    del url, hidden
    from flows.render import RenderOptions, render_video

    with tempfile.TemporaryDirectory() as folder, reading() as store:
        path = Path(folder) / "clip.mp4"
        t1 = t0 + timedelta(seconds=CLIP_S)
        render_video(store, video_id, path, t0=t0, t1=t1, options=RenderOptions(max_width_px=WIDTH_PX))
        return path.read_bytes()


def video_at(links: pd.DataFrame, at: datetime) -> str:
    """The video a track was in at a time; of its tracklets the last that had begun."""
    begun = links[links["t0"] <= at]
    return str((begun if len(begun) else links.head(1))["video_id"].iloc[-1])
