import numpy as np
import pyarrow as pa
import pytest

from flows.config import EventSettings, StitchSettings
from flows.events import compute_events, recompute_events
from flows.events.steady import steady
from flows.schema import OBSERVATIONS, TRACKLETS, ChunkResult
from flows.stitch import stitch_source
from flows.store import Zone, open_store
from tests.stores import make_chunk, make_observation, make_tracklet
from tests.walks import make_observations

SIZES_PX = {"video": (640, 360)}
HZ, SECONDS = 10, 30
BODY = np.array([300.0, 100.0, 380.0, 200.0])
"""A digger without its arm."""
AWAY = np.array([100.0, 0, 100, 0])
ZONE = Zone("dig area", "zone", ((200, 150), (500, 150), (500, 205), (200, 205)))
"""It ends 5 px below the digger."""


def _make(boxes, class_name="excavator", track="digger"):
    boxes = np.asarray(boxes, dtype=float)
    points = [(i / HZ, float((b[0] + b[2]) / 2), float(b[3])) for i, b in enumerate(boxes)]
    columns = {f"{name}_px": boxes[:, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))}
    return make_observations({track: points}, class_name=[class_name] * len(boxes), **columns)


def _swinging(seconds=SECONDS):
    """Its arm goes round once in eight seconds: to the left, towards the camera, to the right, away."""
    turn = 2 * np.pi * np.arange(seconds * HZ) / HZ / 8
    reach = [
        -60 * np.clip(np.cos(turn), 0, 1),
        0 * turn,
        60 * np.clip(-np.cos(turn), 0, 1),
        30 * np.clip(np.sin(turn), 0, 1),
    ]
    return BODY + np.stack(reach, axis=1)


def _boxes(table):
    return np.stack([table[f"{name}_px"].to_numpy() for name in ("x1", "y1", "x2", "y2")], axis=1)


def _visits(observations):
    events = compute_events(observations, [ZONE], EventSettings()).to_pylist()
    return [event for event in events if event["kind"] == "visit"]


def test_an_arm_that_swings_moves_no_machine():
    observations = _make(_swinging())
    assert len(_visits(observations)) > 2  # the arm's end leaves the zone
    still = steady(observations, SIZES_PX, EventSettings())
    assert _boxes(still) == pytest.approx(np.tile(BODY, (observations.num_rows, 1)))
    assert still["x_px"].to_numpy() == pytest.approx(np.full(observations.num_rows, 340))
    (visit,) = _visits(still)
    assert visit["duration_s"] == pytest.approx(SECONDS, abs=0.2)


def test_what_hides_a_machine_for_a_moment_moves_it_no_more_than_its_arm():
    boxes = _swinging()
    boxes[100:130, 3] -= 60  # something stands before its tracks
    still = steady(_make(boxes), SIZES_PX, EventSettings())
    assert _boxes(still)[0] == pytest.approx(BODY)


def test_a_machine_that_drives_is_left_alone():
    boxes = BODY + np.outer(np.arange(100), [2, 0, 2, 0])
    observations = _make(boxes)
    assert steady(observations, SIZES_PX, EventSettings()).equals(observations)
    nearer = BODY + np.outer(np.arange(40), [-1, 2, 1, 4])
    observations = _make(nearer)
    assert steady(observations, SIZES_PX, EventSettings()).equals(observations)


def test_a_machine_that_crawls_is_left_behind_by_little():
    """Two pixels a second, of ninety, are a stand for as long as one looks."""
    crawl = BODY + np.outer(np.arange(60 * HZ) / HZ, [2, 0, 2, 0])
    still = _boxes(steady(_make(crawl), SIZES_PX, EventSettings()))
    behind = np.abs((still - crawl)[:, [0, 2]].mean(axis=1))
    assert 1 < behind.max() < 20


def test_a_machine_that_turns_on_the_spot_stands():
    turn = np.clip(np.sin(2 * np.pi * np.arange(300) / HZ / 8), 0, 1)
    still = steady(_make(BODY + np.outer(turn, [-30, 0, 30, 0])), SIZES_PX, EventSettings())
    assert _boxes(still)[:, [0, 2]] == pytest.approx(np.tile(BODY[[0, 2]], (300, 1)))


def test_no_twitch_at_its_tracks_ends_moves_it():
    boxes = np.concatenate([_swinging()[:1] - AWAY / 2, _swinging(), _swinging()[-1:] + AWAY / 2])
    still = steady(_make(boxes), SIZES_PX, EventSettings())
    assert _boxes(still) == pytest.approx(np.tile(BODY, (len(boxes), 1)), abs=1)


def test_before_and_after_driving_it_stands_in_two_places():
    stays = _swinging(16)
    drive = stays[-1] + np.outer(np.arange(1, 51), [2, 0, 2, 0])
    there = _swinging(16) + AWAY
    still = _boxes(steady(_make([*stays, *drive, *there]), SIZES_PX, EventSettings()))
    assert still[20] == pytest.approx(BODY, abs=1)
    assert still[-20] == pytest.approx(BODY + AWAY, abs=1)


@pytest.mark.parametrize(("side", "step"), [(0, [0, 0, -2, 0]), (2, [2, 0, 0, 0])])
def test_a_machine_that_leaves_over_the_edge_drives(side, step):
    start = np.array([0.0, 100, 200, 200]) if side == 0 else np.array([440.0, 100, 640, 200])
    observations = _make(start + np.outer(np.arange(80), step))
    assert steady(observations, SIZES_PX, EventSettings()).equals(observations)


def test_a_machine_that_comes_nearer_drives():
    """Seen from no higher than itself it grows to all sides."""
    boxes = BODY + np.outer(np.arange(100), [-0.5, -0.3, 0.5, 1.0])
    observations = _make(boxes)
    assert steady(observations, SIZES_PX, EventSettings()).equals(observations)
    observations = _make(boxes[::-1])
    assert steady(observations, SIZES_PX, EventSettings()).equals(observations)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_what_hides_a_machine_for_long_moves_it_no_longer_than_that(share):
    boxes = np.tile(BODY, (100 * HZ, 1))
    hidden = slice(400, 400 + round(share * len(boxes)))
    boxes[hidden, 3] -= 50
    still = _boxes(steady(_make(boxes), SIZES_PX, EventSettings()))
    right = np.abs(still - BODY).max(axis=1) < 1
    assert right[:300].all()
    assert right.mean() > 1 - share - 0.15


def test_who_crawls_after_a_long_stand_is_not_left_there():
    crawl = BODY + np.outer(np.arange(60 * HZ) / HZ, [2, 0, 2, 0])
    still = _boxes(steady(_make([*np.tile(BODY, (300 * HZ, 1)), *crawl]), SIZES_PX, EventSettings()))
    assert np.abs((still[-600:] - crawl)[:, [0, 2]].mean(axis=1)).max() < 25


def test_rows_may_come_in_any_order_and_of_several():
    arm, driver = _make(_swinging()), _make(BODY + np.outer(np.arange(100), [2, 0, 2, 0]), track="driver")
    person = _make(_swinging(), "person", track="person")
    table = pa.concat_tables([arm, person, driver])
    order = np.random.default_rng(0).permutation(table.num_rows)
    still = steady(table.take(order), SIZES_PX, EventSettings())
    still = still.take(np.argsort(order))
    assert _boxes(still[: arm.num_rows]) == pytest.approx(np.tile(BODY, (arm.num_rows, 1)))
    assert still[arm.num_rows :].equals(table[arm.num_rows :].combine_chunks())


def test_where_the_picture_ends_is_a_share_of_it():
    """Boxes of large pictures end some pixels before an edge that cuts them."""
    scale = 6
    boxes = scale * (np.array([1.0, 100, 200, 200]) + np.outer(np.arange(80), [0, 0, -2, 0]))
    observations = _make(boxes)
    assert steady(observations, {"video": (640 * scale, 360 * scale)}, EventSettings()).equals(observations)
    assert steady(observations, {}, EventSettings()).num_rows == 80  # of a picture that nobody knows


def test_recomputed_events_are_of_what_stands(store_url):
    arm = _swinging()
    with open_store(store_url) as store:
        chunk = make_chunk()
        source = chunk.video.source_id
        store.add_video(chunk.video)
        store.plan([chunk])
        rows = [
            make_observation(chunk, i / HZ, class_name="excavator", x_px=(b[0] + b[2]) / 2, y_px=b[3])
            | {f"{name}_px": float(v) for name, v in zip(("x1", "y1", "x2", "y2"), b, strict=True)}
            for i, b in enumerate(arm.tolist())
        ]
        tracklets = pa.Table.from_pylist([make_tracklet(chunk, rows)], TRACKLETS)
        store.commit(ChunkResult(chunk, pa.Table.from_pylist(rows, OBSERVATIONS), tracklets))
        stitch_source(store, source, StitchSettings())
        store.write_zones(source, [ZONE])
        events = recompute_events(store, source).to_pylist()
    assert [event["kind"] for event in events].count("visit") == 1


def test_other_classes_are_left_alone():
    observations = _make(_swinging(), "person")
    assert steady(observations, SIZES_PX, EventSettings()) is observations
    still = steady(observations, SIZES_PX, EventSettings(arm_classes=("person",)))
    assert _boxes(still)[0] == pytest.approx(BODY)
