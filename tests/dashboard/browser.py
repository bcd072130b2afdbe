"""A real browser on a running dashboard: Debian's chromium, driven by playwright."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

import dashboard

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
# No GPU and no user namespaces here; SwiftShader draws WebGL, which maps need.
ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
READY_S, SETTLED_MS, FITS_MS = 120, 120_000, 20_000
SIZES = {"desktop": (1400, 900), "phone": (390, 844)}
SETTLED = (
    "() => document.querySelector('[data-testid=stApp]')?.getAttribute('data-test-script-state') === 'notRunning'"
    " && document.querySelectorAll('[data-testid=stSkeleton], [data-testid=stSpinner]').length === 0"
    " && document.querySelector('h1') !== null"
)


def required() -> None:
    """Skip where there is no browser; fail where the run promises one."""
    missing = None
    if not Path(CHROMIUM).exists():
        missing = "chromium is not installed: apt-get install chromium"
    for package in ("playwright", "axe_playwright_python"):
        if importlib.util.find_spec(package) is None:
            missing = f"{package} is not installed: pip install -e '.[dev]'"
    if missing and os.environ.get("CI") == "true":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


@contextmanager
def served(store_url: str, edit: bool = False) -> Iterator[str]:
    """The dashboard as people start it, on a free port; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = dashboard.command(store_url, port, edit)
    root = str(Path(dashboard.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    address = f"http://localhost:{port}"
    try:
        _wait_for(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urlopen(f"{address}/_stcore/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the dashboard did not start within {READY_S} s (exit code {process.poll()})")


@dataclass
class Seen:
    """What one page did: its errors in the console, and requests that would have left the machine."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def settle(self) -> None:
        """Wait until the script has run and everything is drawn."""
        self.page.wait_for_function(SETTLED, timeout=SETTLED_MS)
        self.page.wait_for_timeout(500)

    def open(self, title: str) -> None:
        """Go to a page as people do, by its name in the menu."""
        self.page.get_by_role("link", name=title, exact=True).click()
        self.page.wait_for_function("title => document.querySelector('h1')?.innerText === title", arg=title)
        self.settle()

    def fits(self) -> bool:
        """Whether the page becomes no wider than the window; tables take a moment after the window changes."""
        part = "document.querySelector('[data-testid=stMain]')"
        from playwright.sync_api import TimeoutError as TooLate

        try:
            self.page.wait_for_function(f"{part}.scrollWidth <= {part}.clientWidth", timeout=FITS_MS)
        except TooLate:
            return False
        return True


@contextmanager
def browser() -> Iterator[Any]:
    """A chromium without windows."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@contextmanager
def visited(opened: Any, address: str, *, size: str = "desktop", dark: bool = False) -> Iterator[Seen]:
    """A tab on an address; nothing but this machine can be reached from it."""
    width, height = SIZES[size]
    context = opened.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", timezone_id="UTC"
    )
    page = context.new_page()
    seen = Seen(page)

    def heard(message: Any) -> None:
        # Streamlit looks for its own address under a page's first, and finds it one level up.
        if message.type == "error" and "/_stcore/" not in message.location.get("url", ""):
            seen.errors.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))

    def guard(route: Any) -> None:
        url = route.request.url
        if url.startswith(("http://localhost:", "data:", "blob:")):
            route.continue_()
        else:
            seen.requests.append(url)
            route.abort()

    page.route("**/*", guard)
    page.goto(address, timeout=SETTLED_MS)
    seen.settle()
    yield seen
    context.close()
