"""Identity across chunk borders and gaps, from tracklets alone."""

import random
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from flows.appearance import DESCRIPTION
from flows.config import StitchSettings
from flows.console import print_missing
from flows.finished import border_frames, missing_chunks
from flows.schema import NS, TRACKLETS, Chunk, ChunkResult
from flows.stitch import Tracklet, link_table, read_tracklets, stitch_source
from flows.store import open_store
from tests.stores import make_chunk, make_observation, make_result, make_tracklet, make_video

FPS = 10
BORDER_S = 10.0
OVERLAP_S = 1.0


def _box(x: float, y: float = 100.0) -> np.ndarray:
    return np.array([x, y, x + 20, y + 50], dtype=np.float32)


def _make_tracklet(name: str, chunk: str, t0_s: float, t1_s: float, x0: float, speed_px_s=30.0, **overrides):
    """An object that is at x0 at time 0 and goes right, seen in one chunk from t0 to t1 (and on into shared frames)."""
    seen_until = t1_s + OVERLAP_S if chunk == "a" and t1_s >= BORDER_S - 0.11 else t1_s
    times = np.arange(round(t0_s * FPS), round(seen_until * FPS) + 1) / FPS
    boxes = np.stack([_box(x0 + speed_px_s * t, overrides.get("y", 100.0)) for t in times])
    ns = np.round(times * NS).astype(np.int64)
    since_ns = overrides.get("since_s", 0) * NS
    head, tail = times < times[0] + 1, times >= min(times[-1], BORDER_S) - 1
    return Tracklet(
        name,
        chunk,
        overrides.get("video", "v"),
        overrides.get("class_name", "person"),
        round(t0_s * NS) + since_ns,
        round(t1_s * NS) + since_ns,
        ns[head] + since_ns,
        boxes[head],
        ns[tail] + since_ns,
        boxes[tail],
        overrides.get("looks"),
        overrides.get("confirmed", True),
    )


def _looks(*bins: int) -> np.ndarray:
    """Descriptions at first and at last of something whose histograms fill one bin each."""
    histograms = np.zeros((2, DESCRIPTION // 32, 32), dtype=np.float32)
    for end, at in zip(histograms, bins, strict=True):
        end[:, at] = 1
    return histograms.reshape(2, DESCRIPTION)


def _looks_mixed(share: float) -> np.ndarray:
    """The same of something of which only a share looks as bin 1 does."""
    return share * _looks(1, 1) + (1 - share) * _looks(3, 3)


def _tracks(tracklets, **settings):
    table = link_table(tracklets, [("a", "b")], "cam", StitchSettings(**settings), 1)
    groups: dict[str, set[str]] = {}
    for row in table.to_pylist():
        groups.setdefault(row["track_id"], set()).add(row["tracklet_id"])
    return sorted(map(sorted, groups.values())), {row["tracklet_id"]: row for row in table.to_pylist()}


def test_shared_frames_join_across_the_border():
    tracklets = [
        _make_tracklet("a1", "a", 0, 9.9, 0),
        _make_tracklet("a2", "a", 2, 9.9, 300),
        _make_tracklet("b1", "b", 10, 15, 0),
        _make_tracklet("b2", "b", 10, 15, 300),
    ]
    groups, rows = _tracks(tracklets)
    assert groups == [["a1", "b1"], ["a2", "b2"]]
    assert rows["a1"]["reason"] == "start"
    assert rows["b1"]["reason"] == "overlap"
    assert rows["b1"]["score"] > 0.9


@pytest.mark.parametrize("fps", [7.0, 25.0, 30000 / 1001])
def test_shared_frames_are_recognised_at_every_frame_rate(fps):
    """Times in the world are whole microseconds, those of frames are not."""
    video = make_video(fps=fps)
    chunks = [Chunk(video, i, i * 10 * NS, (i + 1) * 10 * NS, NS, "x") for i in range(2)]
    rows = []
    for chunk, first in zip(chunks, (round(9 * fps) + 1, round(10 * fps) + 2), strict=True):
        pts = [round(n * NS / fps) for n in range(first, round(11 * fps))]
        boxes = np.concatenate([_box(p / NS) for p in pts]).tolist()
        seen = [make_observation(chunk, (p - chunk.start_ns) / NS, pts_ns=p, ts=video.time_at(p)) for p in pts]
        ends = {
            f"{end}_{what}": value for end in ("head", "tail") for what, value in (("pts_ns", pts), ("xyxy_px", boxes))
        }
        rows.append(make_tracklet(chunk, seen, **ends))
    links = link_table(
        read_tracklets(pa.Table.from_pylist(rows, TRACKLETS)),
        [(chunks[0].chunk_id, chunks[1].chunk_id)],
        "cam",
        StitchSettings(),
        1,
    ).to_pylist()
    assert [row["reason"] for row in links] == ["start", "overlap"]


def test_what_no_chunk_confirmed_is_no_track():
    unsure = [
        _make_tracklet("a1", "a", 0, 9.9, 0, confirmed=False),
        _make_tracklet("b1", "b", 10, 15, 0, confirmed=False),
    ]
    assert _tracks(unsure)[0] == []
    for sure in (0, 1):
        tracklets = [replace(t, confirmed=i == sure) for i, t in enumerate(unsure)]
        assert _tracks([*tracklets, replace(unsure[0], tracklet_id="a2", class_name="car")])[0] == [["a1", "b1"]]
    pinned = link_table(unsure, [("a", "b")], "cam", StitchSettings(), 1, {"b1": ("mine", "split")})
    assert pinned["tracklet_id"].to_pylist() == ["b1"]


def test_another_class_is_another_object():
    tracklets = [_make_tracklet("a1", "a", 0, 9.9, 0), _make_tracklet("b1", "b", 10, 15, 0, class_name="car")]
    assert _tracks(tracklets)[0] == [["a1"], ["b1"]]


def test_motion_bridges_a_gap_but_not_a_long_one():
    before, after = _make_tracklet("a1", "a", 0, 4, 0), _make_tracklet("a2", "a", 5.5, 8, 0)
    groups, rows = _tracks([before, after])
    assert groups == [["a1", "a2"]]
    assert rows["a2"]["reason"] == "motion"
    assert _tracks([before, after], max_gap_seconds=1)[0] == [["a1"], ["a2"]]


def test_motion_does_not_join_what_is_elsewhere_or_of_another_size():
    before = _make_tracklet("a1", "a", 0, 4, 0)
    assert _tracks([before, _make_tracklet("a2", "a", 4.5, 8, 0, y=300)])[0] == [["a1"], ["a2"]]
    # What began before the other ended is a second object, however well it lies.
    assert _tracks([before, _make_tracklet("a2", "a", 3.5, 8, 0)])[0] == [["a1"], ["a2"]]


def test_what_comes_out_from_behind_something_is_as_large_as_it_gets():
    """Its first box shows little of it, and is no reason to take it for something small."""
    gone, back = _make_tracklet("a1", "a", 0, 2.0, 0), _make_tracklet("a2", "a", 3.0, 5.0, 0)
    cut = back.head_xyxy.copy()
    cut[0, 2:] = cut[0, :2] + 15
    assert len(_tracks([gone, replace(back, head_xyxy=cut)])[0]) == 1
    small = back.head_xyxy.copy()
    small[:, 2:] = small[:, :2] + 15
    assert len(_tracks([gone, replace(back, head_xyxy=small)])[0]) == 2


def test_who_stops_while_hidden_begins_anywhere_along_the_way():
    before = _make_tracklet("a1", "a", 0, 4, 0, speed_px_s=100)
    stopped, beyond = (_make_tracklet("a2", "a", 6, 8, x, speed_px_s=0) for x in (400, 850))
    groups, rows = _tracks([before, stopped])
    assert groups == [["a1", "a2"]]
    assert rows["a2"]["score"] == _tracks([before, _make_tracklet("a2", "a", 6, 8, 500, 0)])[1]["a2"]["score"]
    assert _tracks([before, beyond])[0] == [["a1"], ["a2"]]


def test_looks_decide_where_motion_does_not():
    """Two meet, are hidden together, and turn back: motion alone would have them pass through each other."""
    right, left = {"x0": 0, "speed_px_s": 60}, {"x0": 600, "speed_px_s": -60}
    tracklets = [
        _make_tracklet("r1", "a", 0, 4.5, looks=_looks(1, 5), **right),
        _make_tracklet("l1", "a", 0, 4.5, looks=_looks(2, 2), **left),
        _make_tracklet("r2", "a", 5.5, 9, looks=_looks(2, 2), **right),
        _make_tracklet("l2", "a", 5.5, 9, looks=_looks(5, 1), **left),
    ]
    assert _tracks(tracklets)[0] == [["l1", "r2"], ["l2", "r1"]]
    unlike = [replace(t, looks=_looks(i, i)) for i, t in enumerate(tracklets)]
    assert _tracks(unlike)[0] == [["l1"], ["l2"], ["r1"], ["r2"]]
    one_unknown = [replace(t, looks=None if t.tracklet_id == "r1" else _looks(3, 3)) for t in tracklets]
    assert _tracks(one_unknown)[0] == [["l1", "l2"], ["r1", "r2"]]


def test_looks_decide_between_two_who_overlap_on_shared_frames():
    a = [
        _make_tracklet("a1", "a", 0, 9.9, 0, looks=_looks(1, 1)),
        _make_tracklet("a2", "a", 0, 9.9, 4, looks=_looks(2, 2)),
    ]
    b = [
        _make_tracklet("b1", "b", 10, 15, 4, looks=_looks(1, 1)),
        _make_tracklet("b2", "b", 10, 15, 0, looks=_looks(2, 2)),
    ]
    assert _tracks(a + b)[0] == [["a1", "b1"], ["a2", "b2"]]


def test_looks_of_one_moment_do_not_outvote_a_second_of_the_same_box():
    tracklets = [
        _make_tracklet("a1", "a", 0, 9.9, 0, looks=_looks(1, 1)),
        # What was last seen of it was half hidden, and a box too large looks more like that.
        _make_tracklet("b1", "b", 10, 15, 0, looks=_looks_mixed(0.6)),
        _make_tracklet("b2", "b", 10, 15, 9, looks=_looks(1, 1)),
    ]
    tracks, _ = _tracks(tracklets)
    assert tracks == [["a1", "b1"], ["b2"]]


def test_who_was_never_seen_alone_looks_as_beyond_the_border():
    """What one chunk knows only covered, its neighbour's looks join to what comes later, and keep from others."""
    before, covered = _make_tracklet("a1", "a", 0, 9.9, 0, looks=_looks(1, 1)), _make_tracklet("b1", "b", 10.0, 10.5, 0)
    after = _make_tracklet("b2", "b", 12.0, 15.0, 0, looks=_looks(1, 1))
    assert _tracks([before, covered, after])[0] == [["a1", "b1", "b2"]]
    assert _tracks([before, covered, replace(after, looks=_looks(3, 3))])[0] == [["a1", "b1"], ["b2"]]
    unseen = _make_tracklet("a2", "a", 9.5, 9.9, 0)
    early, late = (
        _make_tracklet(n, c, *t, 0, looks=_looks(3, 3)) for n, c, t in (("a0", "a", (0, 8)), ("b0", "b", (10, 15)))
    )
    assert _tracks([early, unseen, late])[0] == [["a0", "a2", "b0"]]
    assert _tracks([early, unseen, replace(late, looks=_looks(1, 1))])[0] == [["a0"], ["a2", "b0"]]


def test_a_part_on_shared_frames_is_of_the_one_seen_whole_if_it_looks_like_it():
    whole = _make_tracklet("a1", "a", 0, 9.9, 0, looks=_looks(1, 1))
    seen = _make_tracklet("b1", "b", 10, 15, 0, looks=_looks(1, 1))
    part = replace(seen, head_xyxy=seen.head_xyxy - np.array([0, 0, 12, 30], dtype=np.float32))
    assert _tracks([whole, part])[0] == [["a1", "b1"]]
    for looks in (_looks(3, 3), None):
        assert _tracks([whole, replace(part, looks=looks)])[0] == [["a1"], ["b1"]]
    assert _tracks([whole, part, replace(seen, tracklet_id="b2")])[0] == [["a1", "b2"], ["b1"]]
    speck = replace(seen, head_xyxy=np.concatenate([seen.head_xyxy[:, :2], seen.head_xyxy[:, :2] + 5], axis=1))
    assert _tracks([whole, speck])[0] == [["a1"], ["b1"]]
    moment = replace(part, head_ns=part.head_ns[:2], head_xyxy=part.head_xyxy[:2])
    assert _tracks([whole, moment])[0] == [["a1"], ["b1"]]
    before = replace(whole, tracklet_id="a2", tail_xyxy=part.head_xyxy[: len(whole.tail_ns)])
    assert _tracks([replace(before, tail_ns=part.head_ns), seen])[0] == [["a2", "b1"]]


def _half_hidden(tracklet: Tracklet, *, stops: bool) -> Tracklet:
    """Only a corner of it is seen, which looks like something else and may stop where it was first."""

    def corner(boxes):
        x1_y1 = boxes[:, :2] if not stops else np.tile(boxes[0, :2], (len(boxes), 1))
        return np.concatenate([x1_y1, x1_y1 + 12], axis=1)

    return replace(
        tracklet,
        head_xyxy=corner(tracklet.head_xyxy),
        tail_xyxy=corner(tracklet.tail_xyxy),
        looks=_looks(7, 7),
    )


def test_a_glimpse_beyond_the_border_does_not_hide_where_it_went():
    way = {"x0": 0, "speed_px_s": 100}
    before = _make_tracklet("a1", "a", 0, 9.9, looks=_looks(1, 1), **way)
    after = _make_tracklet("b2", "b", 12.0, 15, looks=_looks(1, 1), **way)
    glimpse = _half_hidden(_make_tracklet("b1", "b", 10.0, 10.2, **way), stops=True)
    joined, _ = _tracks([before, glimpse, after], min_overlap_iou=0.01)
    assert joined == [["a1", "b1", "b2"]]
    # And the other way round: who comes out just before the border.
    gone = _make_tracklet("a1", "a", 0, 7.5, looks=_looks(1, 1), **way)
    glimpse = _half_hidden(_make_tracklet("a2", "a", 9.8, 9.9, **way), stops=False)
    goes_on = _make_tracklet("b1", "b", 10, 15, looks=_looks(1, 1), **way)
    joined, _ = _tracks([gone, glimpse, goes_on], min_overlap_iou=0.01)
    assert joined == [["a1", "a2", "b1"]]


def test_of_two_glimpses_the_longer_one_says_what_it_looks_like():
    first = _make_tracklet("a1", "a", 9.8, 9.9, 0, looks=_looks(7, 7))
    second = _make_tracklet("b1", "b", 10.0, 10.8, 0, looks=_looks(1, 1))
    later = _make_tracklet("b2", "b", 12.0, 15, 0, looks=_looks(1, 1))
    assert _tracks([first, second, later])[0] == [["a1", "b1", "b2"]]


def test_what_is_neither_sure_nor_known_by_its_looks_is_not_joined_over_a_gap():
    sure, unsure = (_make_tracklet("a1", "a", 0, 2.0, 0, looks=_looks(1, 1)), _make_tracklet("a2", "a", 3.0, 5.0, 0))
    unsure = replace(unsure, confirmed=False)
    assert _tracks([sure, unsure])[0] == [["a1"]]
    assert _tracks([sure, replace(unsure, looks=_looks(1, 1))])[0] == [["a1", "a2"]]


def test_two_seen_apart_on_one_frame_are_never_one():
    """The one went on into the shared frames and was lost there; the other begins beside it on the same frames."""
    before = _make_tracklet("a1", "a", 5, 9.9, 0, speed_px_s=0)
    beside = _make_tracklet("b1", "b", 10.2, 15, 25, speed_px_s=0)
    assert _tracks([before, beside])[0] == [["a1"], ["b1"]]
    later = _make_tracklet("b2", "b", 11.2, 15, 25, speed_px_s=0)
    assert _tracks([before, later])[0] == [["a1", "b2"]]


def test_motion_joins_videos_only_where_their_times_are_known():
    """Videos that nobody dated all begin in 1970, on top of each other."""
    for since_s, joined in ((0, False), (1_767_225_600, True)):
        tracklets = [
            _make_tracklet("a1", "a", 0, 4, 0, since_s=since_s),
            _make_tracklet("b1", "b", 5, 8, 0, since_s=since_s, video="w"),
        ]
        tracks = link_table(tracklets, [], "yard", StitchSettings(), 1)["track_id"].to_pylist()
        assert (tracks[0] == tracks[1]) == joined


def test_two_that_cross_in_a_gap_keep_their_identities():
    right, left = {"x0": 0, "speed_px_s": 60}, {"x0": 600, "speed_px_s": -60}
    tracklets = [
        _make_tracklet("r1", "a", 0, 4.5, **right),
        _make_tracklet("l1", "a", 0, 4.5, **left),
        _make_tracklet("r2", "a", 5.5, 9, **right),
        _make_tracklet("l2", "a", 5.5, 9, **left),
    ]
    assert _tracks(tracklets)[0] == [["l1", "l2"], ["r1", "r2"]]


def test_result_does_not_depend_on_the_order_of_arrival():
    tracklets = [
        _make_tracklet(f"{c}{i}", c, *((0, 9.9) if c == "a" else (10, 15)), i * 80) for c in "ab" for i in range(6)
    ]
    expected = _tracks(tracklets)[1]
    for seed in range(5):
        shuffled = random.Random(seed).sample(tracklets, len(tracklets))
        assert _tracks(shuffled)[1] == expected


def test_a_missing_chunk_ends_tracks_cleanly():
    groups, _ = _tracks([_make_tracklet("a1", "a", 0, 4, 0), _make_tracklet("c1", "c", 20, 25, 0)])
    assert groups == [["a1"], ["c1"]]


def test_another_run_with_other_settings_does_not_count_objects_twice(store_url):
    """The same ten seconds tracked twice: the newest settings' tracklets are linked, the others are left alone."""
    with open_store(store_url) as store:
        for settings_hash in ("old", "new"):
            result = make_result(replace(make_chunk(), settings_hash=settings_hash))
            store.add_video(result.chunk.video)
            store.plan([result.chunk])
            store.commit(result)
        stitch_source(store, result.chunk.video.source_id, StitchSettings())
        linked = store.links(result.chunk.video.source_id)["tracklet_id"].to_pylist()
        assert sorted(linked) == sorted(result.tracklets["tracklet_id"].to_pylist())


def test_missing_chunks_are_told(tmp_path, capsys):
    """Of three chunks one failed; a video that could not be read misses no chunk."""
    with open_store(str(tmp_path)) as store:
        for index in range(3):
            result = make_result(make_chunk(index), 5)
            store.add_video(result.chunk.video)
            store.plan([result.chunk])
            store.commit(result if index != 1 else ChunkResult.failed(result.chunk, "poisoned"))
        store.reject("no.mp4", "gate", "not a video")
        assert [row["index"] for row in missing_chunks(store, "gate")] == [1]
        print_missing(store, ["gate", "yard"])
        assert "gate: 1 chunks are missing (1 failed), 60 s of video" in capsys.readouterr().err
        store.reset_failed([make_chunk(1).chunk_id])
        store.commit(make_result(make_chunk(1), 5))
        assert missing_chunks(store, "gate") == []


@pytest.mark.parametrize("fps", [7.0, 10.0, 30000 / 1001])
def test_borders_are_told_by_their_first_frames(tmp_path, fps):
    video = make_video(fps=fps)
    with open_store(str(tmp_path)) as store:
        store.add_video(video)
        for index in range(3):
            result = make_result(Chunk(video, index, index * 10 * NS, (index + 1) * 10 * NS, NS, "x"), 5)
            store.plan([result.chunk])
            store.commit(result)
        times = np.array([round(n * NS / fps) for n in range(round(30 * fps))])
        expected = [int(np.searchsorted(times, border * 10 * NS)) + 1 for border in (1, 2)]
        assert border_frames(store, video.video_id) == expected


@pytest.mark.parametrize(("width_px", "joined"), [(None, True), (400, True), (171, False)])
def test_what_comes_in_over_the_edge_was_not_lost_in_the_middle(width_px, joined):
    """One ends at 90 to 110 px, the other begins two seconds later, at 150 to 170 px and lower."""
    size_px = None if width_px is None else (width_px, 400)
    lost, found = _make_tracklet("a1", "a", 0, 3, 0), _make_tracklet("b1", "a", 5, 9, 0, y=200.0)
    groups, _ = _tracks([replace(t, size_px=size_px) for t in (lost, found)])
    assert (len(groups) == 1) == joined


@pytest.mark.parametrize(("lower_px", "joined"), [(0, True), (100, False)])
def test_who_leaves_over_the_edge_comes_back_only_if_all_agrees(lower_px, joined):
    away, back = _make_tracklet("a1", "a", 0, 3, 0), _make_tracklet("b1", "a", 5, 9, -60, y=100.0 + lower_px)
    groups, _ = _tracks([replace(t, size_px=(111, 400)) for t in (away, back)])
    assert (len(groups) == 1) == joined
