"""The dashboard: Streamlit pages over either store. Nothing here imports torch, Ray or a video library."""

from __future__ import annotations

import os
import sys
from pathlib import Path

STORE_VARIABLE = "SIGHTFLOW_STORE__URL"
EDIT, EDIT_VARIABLE = "--edit", "SIGHTFLOW_DASHBOARD_EDIT"
"""What lets pages write; without it the store is only read, and a role that may only read is enough."""
BASEMAP_VARIABLE = "SIGHTFLOW_DASHBOARD_BASEMAP"
"""Address of a MapLibre style that is drawn under longitude and latitude; without it nothing is asked of any host."""


def command(store_url: str, port: int, edit: bool = False) -> list[str]:
    """The command line that serves the dashboard.

    Args:
        store_url: folder or `postgresql://...`.
        port: TCP port to listen on.
        edit: whether pages may write: correct tracks, draw zones.

    Returns:
        Arguments to execute, this interpreter first. An address that stands in the environment already is left
        there: it may hold a password, and arguments can be read by every user of the machine.
    """
    argv = [sys.executable, "-m", "streamlit", "run", str(Path(__file__).parent / "main.py")]
    argv += [f"--server.port={port}", "--browser.gatherUsageStats=false", "--client.toolbarMode=viewer"]
    # Nobody edits the pages while they run, and watching every imported file costs a core at the start.
    argv += ["--server.fileWatcherType=none", "--theme.light.primaryColor=#0072B2"]
    argv += ["--theme.dark.primaryColor=#56B4E9"]
    if "STREAMLIT_SERVER_ADDRESS" not in os.environ:
        # Anyone who reaches the port sees everything, so reaching it from elsewhere is a decision.
        argv += ["--server.address=localhost"]
    if not sys.stdout.isatty():
        argv += ["--server.headless=true"]
    of_ours = [EDIT] if edit else []
    if os.environ.get(STORE_VARIABLE) != store_url:
        of_ours += ["--store", store_url]
    if of_ours:
        argv += ["--", *of_ours]
    return argv
