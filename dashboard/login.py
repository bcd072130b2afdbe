"""A login in front of every page, where Streamlit's secrets have an `[auth]` section (OpenID Connect)."""

from __future__ import annotations

import streamlit as st


def require_login() -> None:
    """Stop at a page that asks to log in, where a login is configured and nobody is logged in."""
    # Streamlit tells whether anybody is logged in only where `[auth]` is there.
    if "is_logged_in" not in st.user:
        return
    if not st.user.is_logged_in:
        st.title("Sightflow")
        st.info("Log in to see what was found in the videos.", icon=":material/lock:")
        if st.button("Log in", key="log_in", type="primary", icon=":material/login:"):
            st.login()
        st.stop()
    with st.sidebar:
        st.button("Log out", key="log_out", on_click=st.logout, icon=":material/logout:", type="tertiary")
