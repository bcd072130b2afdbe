"""The store behind the pages: opened once, asked through a short cache, and explained where it cannot be read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import EDIT, EDIT_VARIABLE, STORE_VARIABLE
from flows.config import Settings
from flows.errors import SchemaVersionError, SightflowError, StoreError
from flows.reports import run_report
from flows.store import Store, open_store

FRESH_S = 15
"""How long an answer is shown before the store is asked again; a running job moves on meanwhile."""


def store_url() -> str:
    """The address: `--store` after `--`, else the settings' (environment, then default)."""
    arguments = sys.argv[1:]
    if "--store" in arguments[:-1]:
        return arguments[arguments.index("--store") + 1]
    return os.environ.get(STORE_VARIABLE) or Settings().store.url


@st.cache_resource(show_spinner="Opening the store…")
def _opened(url: str) -> Store:
    store = open_store(url)
    # Looking must not create: what prepares a store makes its tables.
    store.check()
    store.hold_in_memory()
    return store


def _store() -> Store:
    url = store_url()
    if "://" not in url and not Path(url).expanduser().is_dir():
        raise StoreError(f"there is no folder {url}")
    return _opened(url)


@st.cache_data(ttl=FRESH_S, show_spinner=False, max_entries=500)
def _asked(url: str, sql: str, parameters: dict[str, Any]) -> pd.DataFrame:
    del url  # part of the cache's key: two stores answer differently
    return _store().query(sql, parameters).to_pandas()


def rows(sql: str, parameters: dict[str, Any] | None = None) -> pd.DataFrame:
    """The rows of one SELECT with `$name` parameters; at most `FRESH_S` seconds old."""
    return _asked(store_url(), sql, parameters or {})


def fresh_rows(sql: str, parameters: dict[str, Any]) -> pd.DataFrame:
    """The same, asked now."""
    return _store().query(sql, parameters).to_pandas()


@st.cache_data(ttl=FRESH_S, show_spinner=False, max_entries=500)
def _reported(url: str, name: str, parameters: dict[str, Any]) -> pd.DataFrame:
    del url
    return run_report(_store(), name, **parameters).to_pandas()


def report(name: str, **parameters: Any) -> pd.DataFrame:
    """A report of `flows.reports`; at most `FRESH_S` seconds old."""
    return _reported(store_url(), name, parameters)


def forget_answers() -> None:
    """The next question goes to the store."""
    _asked.clear()
    _reported.clear()


def forget() -> None:
    """The store is opened anew, and asked."""
    _opened.clear()
    forget_answers()


@contextmanager
def reading() -> Iterator[Store]:
    """The store itself, for what reads more than tables."""
    yield _store()


@contextmanager
def writing() -> Iterator[Store]:
    """The store, to change something in it; what was asked before is asked anew after."""
    yield _store()
    forget_answers()


def may_edit() -> bool:
    """Whether pages may write: only where the dashboard was started with `--edit`."""
    return EDIT in sys.argv[1:] or os.environ.get(EDIT_VARIABLE, "") == "1"


def filled_store() -> None:
    """Stop with the page that says what to do, where no video has been planned yet."""
    if rows("select count(*) as n from chunks")["n"].iloc[0] == 0:
        st.title("Nothing here yet")
        st.info(f"The store `{_store().url}` holds no videos.", icon=":material/inbox:")
        st.markdown("Process some video, then reload this page:")
        st.code(f"sightflow run VIDEO.mp4 --store {_store().url}", language=None)
        st.stop()


@contextmanager
def explained() -> Iterator[None]:
    """Turn a store that cannot be read into a page that says so and how to fix it."""
    try:
        yield
    except SchemaVersionError as error:
        _explain(
            "This store was written by another version",
            error,
            "Do what the message says, or choose another store:",
            "sightflow db upgrade --store FOLDER_OR_POSTGRESQL_URL",
            "sightflow dashboard --store FOLDER_OR_POSTGRESQL_URL",
        )
    except StoreError as error:
        _explain(
            "The store cannot be read",
            error,
            "Check the address, or create a store by processing a video:",
            "sightflow dashboard --store FOLDER_OR_POSTGRESQL_URL",
            "sightflow run VIDEO.mp4 --store FOLDER_OR_POSTGRESQL_URL",
        )
    except SightflowError as error:
        _explain(
            "This page cannot be shown",
            error,
            "The store is named when the dashboard starts:",
            "sightflow dashboard --store FOLDER_OR_POSTGRESQL_URL",
        )


def _explain(title: str, error: SightflowError, what: str, *commands: str) -> None:
    st.title(title)
    st.error(str(error), icon=":material/error:")
    st.markdown(what)
    st.code("\n".join(commands), language=None)
    if st.button("Try again", icon=":material/refresh:"):
        forget()
        st.rerun()
