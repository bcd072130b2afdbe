import pytest

from flows.config import StitchSettings
from flows.errors import UsageError
from flows.revise import mark_wrong, merge, restore, split
from flows.stitch import stitch_source
from flows.store import open_store
from tests.stores import make_chunk, make_links, make_result


def _tracks(store):
    found = store.query("select track_id, n_tracklets from tracks order by track_id").to_pylist()
    return {row["track_id"]: row["n_tracklets"] for row in found}


@pytest.fixture
def store(store_url):
    """Two chunks with one tracklet each, joined to one track."""
    with open_store(store_url) as opened:
        ids = []
        for index in (0, 1):
            result = make_result(make_chunk(index), 50)
            opened.add_video(result.chunk.video)
            opened.plan([result.chunk])
            opened.commit(result)
            ids.append(result.tracklets["tracklet_id"][0].as_py())
        opened.write_links("gate", 1, make_links("gate", dict.fromkeys(ids, "one")))
        yield opened


def _ids(store):
    return store.query("select tracklet_id from tracklets order by t0")["tracklet_id"].to_pylist()


def test_what_is_wrong_leaves_every_view_and_comes_back(store):
    assert mark_wrong(store, "gate", "one") == 2
    assert _tracks(store) == {}
    assert store.query("select count(*) as n from track_observations")["n"][0].as_py() == 0
    assert store.query("select count(*) as n from track_samples")["n"][0].as_py() == 0
    with pytest.raises(UsageError, match="has no track one now"):
        mark_wrong(store, "gate", "one")
    assert restore(store, "gate", 1) == 3
    assert _tracks(store) == {"one": 2}


def test_split_and_merge_are_each_other_undone(store):
    first, second = _ids(store)
    assert split(store, "gate", "one", second) == 2
    tracks = _tracks(store)
    assert len(tracks) == 2
    assert tracks["one"] == 1
    (other,) = tracks.keys() - {"one"}
    assert merge(store, "gate", "one", other) == 3
    assert _tracks(store) == {"one": 2}
    assert dict(zip(*store.links("gate").select(["tracklet_id", "reason"]).to_pydict().values(), strict=True)) == {
        first: "start" if first < second else "overlap",
        second: "merged",
    }


def test_what_cannot_be_meant_is_refused(store):
    first, _ = _ids(store)
    with pytest.raises(UsageError, match="cannot be split at"):
        split(store, "gate", "one", first)
    with pytest.raises(UsageError, match="cannot be split at"):
        split(store, "gate", "one", "nothing")
    with pytest.raises(UsageError, match="with itself"):
        merge(store, "gate", "one", "one")
    with pytest.raises(UsageError, match="no links of version 7"):
        restore(store, "gate", 7)


def test_stitching_again_keeps_what_a_person_decided(store):
    _, second = _ids(store)
    split(store, "gate", "one", second)
    before = _tracks(store)
    stitch_source(store, "gate", StitchSettings())
    (apart,) = before.keys() - {"one"}
    assert _tracks(store)[apart] == 1
    stitch_source(store, "gate", StitchSettings(), version=9)
    assert apart not in _tracks(store)
