"""Observations of chosen tracks are those of the tracks, whichever spans of time they are asked for by."""

from datetime import timedelta

import pandas as pd
import pytest

import dashboard
from dashboard import observed
from dashboard.data import forget
from dashboard.filters import Selection
from flows.store import Filter, open_store
from tests.dashboard.filled import START, fill


@pytest.fixture
def store(store_url, monkeypatch):
    """The filled store that the dashboard shows."""
    forget()
    monkeypatch.setenv(dashboard.STORE_VARIABLE, store_url)
    with open_store(store_url) as store:
        fill(store)
        yield store


def _stored(store, **where):
    """Everything the store has of what fits."""
    batches = store.observations(Filter(**where), ["track_id", "ts", "frame", "video_id", "pts_ns", "confidence"])
    return pd.concat([batch.to_pandas() for batch in batches]).sort_values(["track_id", "ts"], ignore_index=True)


@pytest.mark.parametrize("max_spans", [1, 2, observed.MAX_SPANS])
def test_paths_are_whole_however_few_spans_are_asked_for(store, monkeypatch, max_spans):
    monkeypatch.setattr(observed, "MAX_SPANS", max_spans)
    found = observed.paths(Selection("gate"), "px")
    assert len(found) == len(_stored(store, source_id="gate"))
    assert found.groupby("track_id")["s"].is_monotonic_increasing.all()


def test_paths_are_those_of_the_interval_and_the_classes(store):
    t0, t1 = START + timedelta(seconds=10), START + timedelta(seconds=11)
    found = observed.paths(Selection("gate", t0, t1, ("person",)), "px")
    wanted = _stored(store, source_id="gate", t0=t0, t1=t1, class_names=("person",))
    assert len(wanted) == 30
    assert (pd.to_datetime(found["s"], unit="s", utc=True).dt.round("ms") == wanted["ts"]).all()


def test_paths_are_thinned_to_what_can_be_drawn(store, monkeypatch):
    monkeypatch.setattr(observed, "MAX_POINTS", 60)
    thinned = observed.paths(Selection("gate"), "px")
    assert 40 <= len(thinned) <= 80
    assert thinned["track_id"].nunique() == 4


def test_a_track_is_observed_whole_and_nothing_besides(store):
    (track_id,) = store.query("select track_id from tracks where source_id = 'gate' and class_name = 'vehicle'")[0]
    found = observed.track_observations("gate", track_id.as_py())
    assert found["frame"].tolist() == list(range(20, 181))
    assert observed.track_observations("gate", "no such track").empty


def test_the_best_view_is_the_first_of_the_surest_of_every_source(store):
    everything = _stored(store)
    found = observed.best_views(everything["track_id"].unique().tolist()).set_index("track_id")
    detected = everything.dropna(subset=["confidence"]).drop_duplicates("track_id").set_index("track_id")
    assert len(found) == 8
    assert (found["pts_ns"] == detected["pts_ns"].reindex(found.index)).all()
    assert observed.best_views([]).empty


def test_what_is_united_to_few_spans_is_what_lies_close(monkeypatch):
    monkeypatch.setattr(observed, "MAX_SPANS", 3)
    begins_s = [0, 5, 20, 21, 100, 103, 200]
    t0 = pd.Series([START + timedelta(seconds=s) for s in begins_s])
    pieces = pd.DataFrame({"source_id": "gate", "t0": t0, "t1": t0 + timedelta(seconds=2)})
    spans = observed._united(pieces)
    assert [(t - START).total_seconds() for t in spans["t0"]] == [0, 100, 200]
    assert [(t - START).total_seconds() for t in spans["t1"]] == [23, 105, 202]
