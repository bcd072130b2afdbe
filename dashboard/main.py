"""What Streamlit runs: the store, the pages and the filter bar they share."""

from __future__ import annotations

import streamlit as st

from dashboard.data import explained, filled_store
from dashboard.filters import filter_bar
from dashboard.login import require_login

# Drawn here: Streamlit fetches the icon of a `:material/…:` name from another host.
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" fill="none" stroke-width="4">'
    '<path d="M4 24c8 0 4-16 12-16s4 16 12 16" stroke="#0072B2"/><circle cx="28" cy="24" r="4" fill="#E69F00"/></svg>'
)

st.set_page_config(page_title="Sightflow", page_icon=ICON, layout="wide")
PAGES = {
    "overview": ("Overview", "dashboard"),
    "traffic": ("Traffic", "swap_horiz"),
    "occupancy": ("Occupancy & dwell", "groups"),
    "utilisation": ("Utilisation", "construction"),
    "map": ("Map & plan", "map"),
    "review": ("Review", "rate_review"),
    "zones": ("Zones", "fence"),
    "quality": ("Quality", "fact_check"),
}
page = st.navigation(
    [
        st.Page(f"views/{name}.py", title=title, icon=f":material/{icon}:", default=name == "overview")
        for name, (title, icon) in PAGES.items()
    ]
)
# Streamlit's captions are too faint to be read by all (WCAG 2.1, 1.4.3).
CAPTIONS = "[data-testid=stCaptionContainer], [data-testid=stCaptionContainer] *"
st.html(f"<style>{CAPTIONS} {{ color: inherit !important; opacity: 1 !important; }}</style>")
require_login()
with explained():
    filled_store()
    filter_bar()
    page.run()
