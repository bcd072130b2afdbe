"""Forms that correct who is who; each writes a new version of a source's links, and any version can be taken back."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from dashboard import clock, queries
from dashboard.data import writing
from dashboard.filters import selection
from dashboard.parts import table
from flows.config import Settings
from flows.errors import SightflowError
from flows.events import recompute_events
from flows.revise import mark_wrong, merge, restore, split
from flows.store import Store


def form(source_id: str, track_id: str, links: pd.DataFrame) -> None:
    """What can be said about one track: that it is wrong, the same as another, or more than one."""
    st.markdown("**Correct**")
    wrong, same, parts = st.columns(3, gap="large")
    with wrong:
        st.caption("Not an object at all: it leaves all reports.")
        if st.button("Mark as wrong", key="mark_wrong", icon=":material/block:"):
            _write(source_id, lambda store: mark_wrong(store, source_id, track_id))
    with same:
        other = st.text_input("Track that is the same object", key="same_as", placeholder="its id").strip()
        if st.button("Merge", key="merge", icon=":material/merge:", disabled=not other):
            _write(source_id, lambda store: merge(store, source_id, track_id, other))
    with parts:
        later = links["tracklet_id"].tolist()[1:]
        begins = dict(zip(links["tracklet_id"], links["t0"], strict=True))

        def shown(tracklet_id: str) -> str:
            return f"{begins[tracklet_id].astimezone(clock.zone()):%H:%M:%S} {tracklet_id[:8]}"

        if not later:
            st.caption("It is one piece, which cannot be split.")
            return
        first = st.selectbox("Piece from which it is another", later, key="split_at", format_func=shown)
        if st.button("Split", key="split", icon=":material/call_split:"):
            _write(source_id, lambda store: split(store, source_id, track_id, str(first)))


def history() -> None:
    """The versions of a source's links, and taking one up again."""
    chosen = selection()
    with st.expander("Versions of who is who"):
        if chosen.source_id is None:
            st.caption("Choose a source in the filter.")
            return
        source_id = chosen.source_id
        versions = queries.link_versions(source_id)
        table(versions, "link-versions", {"version": "Version", "tracks": "Tracks", "corrected": "Corrected pieces"})
        older = versions["version"].tolist()[1:]
        if not older:
            st.caption("Nothing to go back to.")
            return
        version = st.selectbox("Version", older, key="restore_version")
        if st.button("Take it up again", key="restore", icon=":material/undo:"):
            _write(source_id, lambda store: restore(store, source_id, int(version)))


def _write(source_id: str, change: Callable[[Store], int]) -> None:
    settings = Settings.load()
    try:
        with writing() as store:
            version = change(store)
            recompute_events(store, source_id, settings.events, settings.georeference)
    except SightflowError as error:
        st.error(str(error), icon=":material/error:")
        return
    st.toast(f"Written as version {version}; events were computed anew.", icon=":material/check:")
    st.rerun()
