"""What Streamlit runs: the store, the pages and the filter bar they share."""

from __future__ import annotations

import streamlit as st

from dashboard.data import explained, filled_store
from dashboard.filters import filter_bar

st.set_page_config(page_title="Sightflow", page_icon=":material/route:", layout="wide")
page = st.navigation(
    [
        st.Page("views/overview.py", title="Overview", icon=":material/dashboard:", default=True),
        st.Page("views/tracks.py", title="Tracks", icon=":material/route:"),
        st.Page("views/zones.py", title="Zones & lines", icon=":material/fence:"),
        st.Page("views/quality.py", title="Quality", icon=":material/fact_check:"),
    ]
)
with explained():
    filled_store()
    filter_bar()
    page.run()
