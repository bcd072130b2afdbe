"""Tracklets -> tracks: who is who across chunk borders and gaps.

Neighbouring chunks share frames. Tracklets that lie on each other there are one object, or the one a part of the other
that looks like it (`overlap`); what ended shortly before another began, where its motion leads and looking like it, is
too (`motion`), though seldom if one of the two was at the picture's edge. Both are assignments, optimal over all
tracklets of a border, so the result does not depend on the order in which chunks arrive, and nothing here looks at
video: identity can be revised at any time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import chdtrc, chdtri

from flows.appearance import DISTANCE2_PER_DIFFERENCE, LIKE, Looks, difference
from flows.associate import APPEARANCE_WEIGHT, FORBIDDEN, assign, iou, within
from flows.carried import shows_part
from flows.config import StitchSettings
from flows.finished import borders, current_chunks
from flows.locate import sizes_px
from flows.revise import decided
from flows.schema import ENDS_NS, NS, TRACK_LINKS, FloatArray, make_id
from flows.store import Store

# How far motion leads astray, as a share of the object's size: at once, and per second of gap.
_POSITION_SIGMA = 0.25
_DRIFT_SIGMA_PER_S = 0.6
# Boxes of one object from two chunks overlap by all but this much: that far apart, looks have a say at the least.
_BOX_ERROR = 0.1
# One box lies in the other to this share, on so many frames, where it shows a part of the same object.
_PART, _LEAST_SHARED = 0.7, 3
# What leaves over the picture's edge seldom comes back within seconds, and what comes in was seldom lost before: one in
# twenty, by a log likelihood (-2 ln 0.05).
_EDGE_DISTANCE2 = 6.0
# World times in 1970 are those of videos that nobody dated (`schema.EPOCH`).
_DATED_NS = 365 * 86_400 * NS
# Sizes of the two ends must agree within this factor: half of what comes out from behind something may still be hidden.
_SIZE_RATIO = 2.5


@dataclass(frozen=True)
class Tracklet:
    """What the stitcher sees of a tracklet: its ends in world time (ns), boxes (N, 4) in pixels.

    `looks` are what it looked like at first and at last (`appearance.Looks`), `size_px` the width and height of its
    pictures; None where nobody wrote that down.
    """

    tracklet_id: str
    chunk_id: str
    video_id: str
    class_name: str
    t0_ns: int
    t1_ns: int
    head_ns: npt.NDArray[np.int64]
    head_xyxy: FloatArray
    tail_ns: npt.NDArray[np.int64]
    tail_xyxy: FloatArray
    looks: FloatArray | None = None
    confirmed: bool = True
    size_px: tuple[int, int] | None = None


@dataclass(frozen=True)
class Link:
    """Two tracklets of one object, the later following the earlier."""

    earlier: str
    later: str
    score: float
    reason: str


def stitch_source(store: Store, source_id: str, settings: StitchSettings, version: int | None = None) -> int:
    """Stitch all finished chunks of a source and write the links; returns the number of tracks.

    Chunks that are missing or failed leave a gap that only motion bridges. Held under the source's lock, so that two
    runs on one camera do not undo each other. Without a version the newest is brought up to date: it is what is shown,
    and what a person decided in it (`revise`) stays.
    """
    with store.locked(source_id):
        pinned: dict[str, tuple[str, str]] = {}
        if version is None:
            newest = store.links(source_id)
            version, pinned = max(newest["version"].to_pylist(), default=1), decided(newest)
        links = link_table(*read_source(store, source_id), source_id, settings, version, pinned)
        store.write_links(source_id, version, links)
    return len(set(links["track_id"].to_pylist()))


def read_source(store: Store, source_id: str) -> tuple[list[Tracklet], list[tuple[str, str]]]:
    """What there is to stitch of a source: its tracklets, and which chunks are neighbours (earlier, later)."""
    chunks = current_chunks(store, source_id)
    current = {row["chunk_id"] for row in chunks}
    tracklets = read_tracklets(store.tracklets(source_id), sizes_px(store, source_id))
    return [t for t in tracklets if t.chunk_id in current], borders(chunks)


def link_table(
    tracklets: Sequence[Tracklet],
    borders: Sequence[tuple[str, str]],
    source_id: str,
    settings: StitchSettings,
    version: int,
    pinned: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> pa.Table:
    """The links (schema TRACK_LINKS) of a source's tracklets, but of those that no chunk confirmed.

    Args:
        tracklets: All of the source's.
        borders: Pairs of neighbouring chunks (earlier, later) that share frames.
        source_id, settings, version: As stored.
        pinned: Tracklets of which a person said which track they belong to and why; what follows them does too.
    """
    by_later = {link.later: link for link in join(tracklets, borders, settings)}
    rows = []
    tracks: dict[str, str] = {}
    shown = set()
    for tracklet in sorted(tracklets, key=lambda t: (t.t0_ns, t.tracklet_id)):
        link = by_later.get(tracklet.tracklet_id)
        # A predecessor starts earlier, so its track is known by now.
        track_id = tracks[link.earlier] if link else make_id("track", tracklet.tracklet_id)
        reason = link.reason if link else "start"
        if tracklet.tracklet_id in pinned:
            track_id, reason = pinned[tracklet.tracklet_id]
        tracks[tracklet.tracklet_id] = track_id
        if tracklet.confirmed or tracklet.tracklet_id in pinned:
            shown.add(track_id)
        rows.append(
            {
                "tracklet_id": tracklet.tracklet_id,
                "track_id": track_id,
                "source_id": source_id,
                "version": version,
                "score": link.score if link else None,
                "reason": reason,
            }
        )
    return pa.Table.from_pylist([row for row in rows if row["track_id"] in shown], schema=TRACK_LINKS)


def join(tracklets: Sequence[Tracklet], borders: Sequence[tuple[str, str]], settings: StitchSettings) -> list[Link]:
    """Who follows whom: by the frames neighbours share, then over gaps. At most one follows each, and is followed."""
    overlaps = _join_overlaps(tracklets, borders, settings)
    return overlaps + _join_gaps(_uncut(tracklets, overlaps), overlaps, settings)


def _uncut(tracklets: Sequence[Tracklet], overlaps: Sequence[Link]) -> list[Tracklet]:
    """The same tracklets with ends as if no border had cut them.

    What a border left a glimpse of, less than `ENDS_NS`, has its motion and size from the piece beside it, too, and its
    looks if that is the longer one; what was never seen alone in its chunk has its looks from there.
    """
    whole = {t.tracklet_id: t for t in tracklets}
    for link in overlaps:  # in order of time, as borders are
        before, after = whole[link.earlier], whole[link.later]
        more = (before.tail_ns < after.tail_ns[0]) & (before.tail_ns >= after.tail_ns[-1] - ENDS_NS)
        whole[link.later] = replace(
            after,
            looks=_looks_of(after, before),
            tail_ns=np.concatenate([before.tail_ns[more], after.tail_ns]),
            tail_xyxy=np.concatenate([before.tail_xyxy[more], after.tail_xyxy]),
        )
    for link in reversed(overlaps):
        before, after = whole[link.earlier], whole[link.later]
        more = (after.head_ns > before.head_ns[-1]) & (after.head_ns <= before.head_ns[0] + ENDS_NS)
        whole[link.earlier] = replace(
            before,
            looks=_looks_of(before, after),
            head_ns=np.concatenate([before.head_ns, after.head_ns[more]]),
            head_xyxy=np.concatenate([before.head_xyxy, after.head_xyxy[more]]),
        )
    return [whole[t.tracklet_id] for t in tracklets]


def _looks_of(piece: Tracklet, beside: Tracklet) -> FloatArray | None:
    """Those of a piece, or of the one beside it that knows them better."""
    if beside.looks is None:
        return piece.looks
    own_ns, other_ns = (t.t1_ns - t.t0_ns for t in (piece, beside))
    return beside.looks if piece.looks is None or own_ns < min(ENDS_NS, other_ns) else piece.looks


def read_tracklets(table: pa.Table, sizes_px: Mapping[str, tuple[int, int]] = MappingProxyType({})) -> list[Tracklet]:
    """Tracklets from a table of schema TRACKLETS, times moved from the video's clock to the world's.

    The sizes are those of the pictures, by video.

    World times are stored to the microsecond, so the offset is a whole number of them: a rest of nanoseconds, another
    for every tracklet, would keep the frames that two of them share from being recognised.
    """
    t0_us = table["t0"].cast(pa.int64()).to_pylist()
    tracklets = []
    for row, t0 in zip(table.to_pylist(), t0_us, strict=True):
        offset_ns = (t0 - row["pts0_ns"] // 1000) * 1000
        tracklets.append(
            Tracklet(
                row["tracklet_id"],
                row["chunk_id"],
                row["video_id"],
                row["class_name"],
                row["pts0_ns"] + offset_ns,
                row["pts1_ns"] + offset_ns,
                np.array(row["head_pts_ns"], dtype=np.int64) + offset_ns,
                np.array(row["head_xyxy_px"], dtype=np.float32).reshape(-1, 4),
                np.array(row["tail_pts_ns"], dtype=np.int64) + offset_ns,
                np.array(row["tail_xyxy_px"], dtype=np.float32).reshape(-1, 4),
                Looks.from_list(row["appearance"]),
                row["confirmed"] is not False,
                sizes_px.get(row["video_id"]),
            )
        )
    return tracklets


def _join_overlaps(
    tracklets: Sequence[Tracklet], borders: Sequence[tuple[str, str]], settings: StitchSettings
) -> list[Link]:
    by_chunk: dict[str, list[Tracklet]] = {}
    for tracklet in sorted(tracklets, key=lambda t: (t.t0_ns, t.tracklet_id)):
        by_chunk.setdefault(tracklet.chunk_id, []).append(tracklet)
    links = []
    for before, after in borders:
        earlier, later = by_chunk.get(before, []), by_chunk.get(after, [])
        if not earlier or not later:
            continue
        overlap = np.array([[_shared_iou(a, b) for b in later] for a in earlier])
        unlike = np.array([[_difference(a, b) for b in later] for a in earlier])
        # Frames that both saw say most: the better two overlap there, the less their looks, of one moment each, count.
        apart = 1 - overlap
        cost = apart + APPEARANCE_WEIGHT * unlike * (apart + _BOX_ERROR)
        cost = np.where(overlap >= settings.min_overlap_iou, cost, FORBIDDEN)
        pairs = assign(cost)
        # Of what is left, one chunk may have seen a part of what the other saw whole.
        part = np.zeros(overlap.shape)
        left = overlap > 0
        left[[i for i, _ in pairs]], left[:, [j for _, j in pairs]] = False, False
        for i, j in np.argwhere(left).tolist():
            part[i, j] = _shared_part(earlier[i], later[j])
        pairs += assign(np.where(part >= _PART, 1 - part + unlike, FORBIDDEN))
        score = np.where(part >= _PART, part, overlap)
        links += [Link(earlier[i].tracklet_id, later[j].tracklet_id, float(score[i, j]), "overlap") for i, j in pairs]
    return links


def _shared_iou(a: Tracklet, b: Tracklet) -> float:
    """Mean IoU over the frames both saw; 0 where they share none or are of different classes."""
    boxes = _shared_boxes(a, b)
    return float(np.mean(iou(*boxes))) if boxes else 0.0


def _shared_part(a: Tracklet, b: Tracklet) -> float:
    """Mean share of the smaller box that lies in the larger on those frames, be it a part of the same object.

    0 where they are not known to look alike, on too few frames, and where the one is far too small to be a part.
    """
    boxes = _shared_boxes(a, b)
    if boxes is None or len(boxes[0]) < _LEAST_SHARED or a.looks is None or b.looks is None:
        return 0.0
    size_a, size_b = (max(map(_size, of_one)) for of_one in boxes)
    if _difference(a, b) > LIKE or not 1 / _SIZE_RATIO <= size_a / size_b <= _SIZE_RATIO:
        return 0.0
    return float(np.mean(within(*boxes)))


def _shared_boxes(a: Tracklet, b: Tracklet) -> tuple[FloatArray, FloatArray] | None:
    """The boxes (N, 4) of two of one class on the N frames both saw; None where there are none."""
    if a.class_name != b.class_name:
        return None
    shared, rows_a, rows_b = np.intersect1d(a.tail_ns, b.head_ns, return_indices=True)
    return (a.tail_xyxy[rows_a], b.head_xyxy[rows_b]) if shared.size else None


def _join_gaps(tracklets: Sequence[Tracklet], joined: Sequence[Link], settings: StitchSettings) -> list[Link]:
    """Join what ended to what began within `max_gap_seconds` where its motion led and its looks agree.

    Of all ways to join, the one of least cost: a pair costs its distance less what the gate allows, and nothing where
    it is not joined, so that two good pairs are not given up for three bad ones.
    """
    continued = {link.earlier for link in joined}
    continuing = {link.later for link in joined}
    # For what is neither sure nor was ever seen alone, a place where motion might lead is not enough.
    known = [t for t in tracklets if t.confirmed or t.looks is not None]
    ends = sorted((t for t in known if t.tracklet_id not in continued), key=lambda t: (t.t1_ns, t.tracklet_id))
    starts = sorted((t for t in known if t.tracklet_id not in continuing), key=lambda t: (t.t0_ns, t.tracklet_id))
    start_times = np.array([t.t0_ns for t in starts], dtype=np.int64)
    gates = {freedom: float(chdtri(freedom, 1 - settings.gate_probability)) for freedom in (2, 4)}
    links: dict[tuple[int, int], tuple[float, Link]] = {}
    for i, end in enumerate(ends):
        low = int(np.searchsorted(start_times, end.t1_ns, side="right"))
        high = int(np.searchsorted(start_times, end.t1_ns + round(settings.max_gap_seconds * NS), side="right"))
        for j in range(low, high):
            distance2, freedom = _gap_distance2(end, starts[j])
            excess = distance2 - gates[freedom]
            if excess < 0:
                score = float(chdtrc(freedom, distance2))
                links[i, j] = excess, Link(end.tracklet_id, starts[j].tracklet_id, score, "motion")
    if not links:
        return []
    possible = np.array(list(links))
    # Pairs that share no tracklet, not even by way of others, do not compete: a source has years of them.
    graph = coo_array(
        (np.ones(len(possible)), (possible[:, 0], len(ends) + possible[:, 1])), [len(ends) + len(starts)] * 2
    )
    _, group = connected_components(graph, directed=False)
    chosen = []
    for rival in np.unique(group[possible[:, 0]]):
        rows, columns = (np.unique(ids) for ids in possible[group[possible[:, 0]] == rival].T)
        cost = np.array([[links.get((i, j), (0.0,))[0] for j in columns] for i in rows])
        chosen += [links[pair][1] for i, j in assign(cost) if (pair := (rows[i], columns[j])) in links]
    return chosen


def _gap_distance2(end: Tracklet, start: Tracklet) -> tuple[float, int]:
    """How far one tracklet's beginning is from where another's motion leads and from what it looked like.

    The longer the gap, the larger the place where it may begin, and the less it says that something began there: the
    log of that place's size about the way's nearest point, and not the distance alone, is what pairs compete with.

    Returns:
        A squared distance and of how many degrees of freedom it is: 4, 2 where looks are not known.
    """
    distance2 = _motion_distance2(end, start)
    if _at_edge(end.tail_xyxy[-1], end.size_px) or _at_edge(start.head_xyxy[0], start.size_px):
        distance2 += _EDGE_DISTANCE2
    if end.looks is None or start.looks is None:
        return distance2, 2
    return distance2 + DISTANCE2_PER_DIFFERENCE * _difference(end, start), 4


def _at_edge(box_xyxy: FloatArray, size_px: tuple[int, int] | None) -> bool:
    return size_px is not None and bool(shows_part(box_xyxy, size_px))


def _difference(end: Tracklet, start: Tracklet) -> float:
    """Of what one looked like at last and another at first, 0 to 1; 0 where that is not known."""
    if end.looks is None or start.looks is None:
        return 0.0
    return float(difference(end.looks[1:], start.looks[:1])[0, 0])


def _motion_distance2(end: Tracklet, start: Tracklet) -> float:
    """Squared Mahalanobis distance of where one tracklet begins from the way another's motion leads, and its spread."""
    if end.class_name != start.class_name:
        return FORBIDDEN
    if end.video_id != start.video_id and min(end.t0_ns, start.t0_ns) < _DATED_NS:
        return FORBIDDEN  # videos of unknown time all begin at the epoch: that one follows another means nothing there
    if np.intersect1d(end.tail_ns, start.head_ns).size:
        return FORBIDDEN  # seen on the same frames, and apart, or they would be joined by that
    last = [(int(t), box) for t, box in zip(end.tail_ns, end.tail_xyxy, strict=True) if t < start.head_ns[0]]
    if not last:
        return FORBIDDEN  # it was seen before the other: nothing leads from one to the other
    first_box = start.head_xyxy[0]
    # At their largest, for what goes behind something, or comes out, is small on its last and first frames.
    size_last, size_first = (max(map(_size, boxes)) for boxes in ([box for _, box in last], start.head_xyxy))
    if not 1 / _SIZE_RATIO <= size_first / size_last <= _SIZE_RATIO:
        return FORBIDDEN
    gap_s = (int(start.head_ns[0]) - last[-1][0]) / NS
    sigma = size_last * (_POSITION_SIGMA + _DRIFT_SIGMA_PER_S * gap_s)
    way, gone = _velocity(last) * gap_s, _centre(first_box) - _centre(last[-1][1])
    # From the way, not from its end: who is hidden may stop there, and begins anywhere along it.
    share = float(np.clip(gone @ way / max(float(way @ way), 1e-9), 0, 1))
    spread = 4 * math.log(1 + _DRIFT_SIGMA_PER_S / _POSITION_SIGMA * gap_s)  # log determinant, over that of no gap
    return float((((gone - share * way) / sigma) ** 2).sum()) + spread


def _velocity(points: Sequence[tuple[int, FloatArray]]) -> npt.NDArray[np.float64]:
    """Least-squares velocity of the centre, px/s; 0 where there is one point."""
    if len(points) < 2:
        return np.zeros(2)
    times = np.array([t for t, _ in points], dtype=np.float64) / NS
    centres = np.stack([_centre(box) for _, box in points])
    times -= times.mean()
    return (times[:, None] * (centres - centres.mean(axis=0))).sum(axis=0) / (times**2).sum()


def _centre(box_xyxy: FloatArray) -> npt.NDArray[np.float64]:
    return (box_xyxy[:2].astype(np.float64) + box_xyxy[2:]) / 2


def _size(box_xyxy: FloatArray) -> float:
    return max(float((box_xyxy[2:] - box_xyxy[:2]).max()), 1.0)
