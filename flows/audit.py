"""Stored tracklets -> how far their stitching can be trusted, without labels.

Tracklets that the tracker followed without a break are cut at random places and random lengths of time are left out;
then everything is stitched again. Which pieces belong together is known, so it is seen how often the stitcher finds
it, on this footage, at these sizes and in this crowd. Cuts fall anywhere, real gaps where objects hide each other: what
is reported is closer to the best case than to the worst. So is what looks are worth for short tracklets; the pieces of
long ones are compared by what the whole looked like at first and at last, which is harder than the truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.config import StitchSettings
from flows.errors import UsageError
from flows.schema import ENDS_NS, NS, FloatArray
from flows.stitch import Tracklet, join, read_source
from flows.store import Store

# Each piece keeps at least this much: the stitcher reads motion from a second.
_LEAST_PIECE_NS = NS
# Upper ends of the classes of gap that are reported, seconds.
_GAPS_S = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0)

AUDIT = pa.schema(
    [
        pa.field("gap_s", pa.string(), nullable=False),
        pa.field("cuts", pa.int64(), nullable=False),
        pa.field("rejoined", pa.int64(), nullable=False),
        pa.field("joined_wrongly", pa.int64(), nullable=False),
        # Percent; null where nothing was joined.
        pa.field("precision", pa.float64()),
        pa.field("recall", pa.float64()),
    ]
)
"""What an audit says, by length of the gap (`all` comes last). Of joins, both ends of every cut count."""


@dataclass(frozen=True)
class Cut:
    """One tracklet in two pieces, `gap_ns` apart."""

    first: Tracklet
    second: Tracklet
    gap_ns: int


@dataclass(frozen=True)
class Path:
    """Boxes (N, 4) of a tracklet at world times (N,), ns, in order."""

    times_ns: npt.NDArray[np.int64]
    xyxy: FloatArray


def audit_source(store: Store, source_id: str, settings: StitchSettings, *, cuts: int, seed: int) -> pa.Table:
    """Cut, stitch and count (schema `AUDIT`).

    Args:
        store, source_id: Whose tracklets.
        settings: Of the stitcher that is tried.
        cuts: How many at least, in as many rounds as that takes; in each round a tracklet is cut once.
        seed: Of the random places; the same seed gives the same audit.

    Raises:
        UsageError: No tracklet is long enough to be cut.
    """
    tracklets, borders = read_source(store, source_id)
    rng = np.random.default_rng(seed)
    paths = _paths(store, source_id, tracklets, cuts, rng)
    found: list[tuple[int, bool, int]] = []
    while len(found) < cuts:
        cut = [c for t in tracklets if t.tracklet_id in paths and (c := _cut(t, paths[t.tracklet_id], settings, rng))]
        if not cut:
            least_s = 2 * _LEAST_PIECE_NS / NS
            raise UsageError(f"{source_id}: no tracklet is longer than {least_s:g} s, so none can be cut in two")
        found += _rejoined(tracklets, cut, borders, settings)
    return _table(found)


def _paths(
    store: Store, source_id: str, tracklets: Sequence[Tracklet], wanted: int, rng: np.random.Generator
) -> dict[str, Path]:
    """What tracklets did, of chunks taken at random until `wanted` tracklets are long enough, or of all."""
    long_enough = Counter(t.chunk_id for t in tracklets if t.t1_ns - t.t0_ns > 2 * _LEAST_PIECE_NS)
    paths: dict[str, Path] = {}
    for chunk_id in rng.permutation(sorted(long_enough)):
        paths |= _paths_of_chunk(store, source_id, [t for t in tracklets if t.chunk_id == chunk_id])
        if len(paths) >= wanted:
            break
    return paths


def _paths_of_chunk(store: Store, source_id: str, tracklets: Sequence[Tracklet]) -> Iterator[tuple[str, Path]]:
    columns = ("tracklet_id", "pts_ns", "x1_px", "y1_px", "x2_px", "y2_px")
    rows = store.query(
        f"select {', '.join(columns)} from observations where source_id = $source and chunk_id = $chunk "
        "order by tracklet_id, pts_ns",
        {"source": source_id, "chunk": tracklets[0].chunk_id},
    )
    ids = np.array(rows["tracklet_id"].to_pylist())
    pts_ns, *sides = (rows[name].to_numpy() for name in columns[1:])
    boxes = np.column_stack(sides).astype(np.float32)
    for tracklet in tracklets:
        mine = ids == tracklet.tracklet_id
        if mine.any() and tracklet.t1_ns - tracklet.t0_ns > 2 * _LEAST_PIECE_NS:
            times = tracklet.t0_ns + (pts_ns[mine] // 1000 - pts_ns[mine][0] // 1000) * 1000
            yield tracklet.tracklet_id, Path(times, boxes[mine])


def _cut(tracklet: Tracklet, path: Path, settings: StitchSettings, rng: np.random.Generator) -> Cut | None:
    """A tracklet in two, or None where two observations in a row are further apart than any gap may be."""
    times, longest_ns = path.times_ns, round(settings.max_gap_seconds * NS)
    spare = tracklet.t1_ns - tracklet.t0_ns - 2 * _LEAST_PIECE_NS
    gap = round(rng.uniform(0, min(spare, longest_ns)))
    until = tracklet.t0_ns + _LEAST_PIECE_NS + round(rng.uniform(0, spare - gap))
    last = int(np.searchsorted(times, until, side="right")) - 1
    next_ = max(int(np.searchsorted(times, times[last] + gap, side="right")) - 1, last + 1)
    if times[next_] - times[last] > longest_ns:
        return None
    tail = slice(int(np.searchsorted(times, times[last] - ENDS_NS)), last + 1)
    head = slice(next_, int(np.searchsorted(times, times[next_] + ENDS_NS)))
    name = tracklet.tracklet_id
    first = replace(
        tracklet,
        tracklet_id=f"{name}/1",
        t1_ns=int(times[last]),
        tail_ns=times[tail],
        tail_xyxy=path.xyxy[tail],
    )
    second = replace(
        tracklet,
        tracklet_id=f"{name}/2",
        t0_ns=int(times[next_]),
        head_ns=times[head],
        head_xyxy=path.xyxy[head],
    )
    return Cut(first, second, int(times[next_] - times[last]))


def _rejoined(
    tracklets: Sequence[Tracklet], cuts: Sequence[Cut], borders: Sequence[tuple[str, str]], settings: StitchSettings
) -> list[tuple[int, bool, int]]:
    """Of every cut: its gap (ns), whether its pieces were joined, and how many of the two were joined elsewhere."""
    whole = {cut.first.tracklet_id.removesuffix("/1") for cut in cuts}
    pieces = [piece for cut in cuts for piece in (cut.first, cut.second)]
    links = join([t for t in tracklets if t.tracklet_id not in whole] + pieces, borders, settings)
    later, continuing = {link.earlier: link.later for link in links}, {link.later for link in links}
    found = []
    for cut in cuts:
        first, second = cut.first.tracklet_id, cut.second.tracklet_id
        right = later.get(first) == second
        found.append((cut.gap_ns, right, 0 if right else (first in later) + (second in continuing)))
    return found


def _table(found: Sequence[tuple[int, bool, int]]) -> pa.Table:
    gap_ns, right, wrong = (np.array(column) for column in zip(*found, strict=True))
    groups = {
        f"{low:g}-{high:g}": (gap_ns > low * NS) & (gap_ns <= high * NS)
        for low, high in pairwise((0.0, *_GAPS_S, np.inf))
    } | {"all": gap_ns > 0}
    rows = []
    for name, group in groups.items():
        cuts, rejoined, astray = int(group.sum()), int(right[group].sum()), int(wrong[group].sum())
        if cuts:
            precision = 100 * rejoined / (rejoined + astray) if rejoined + astray else None
            rows.append((name, cuts, rejoined, astray, precision, 100 * rejoined / cuts))
    return pa.Table.from_pylist([dict(zip(AUDIT.names, row, strict=True)) for row in rows], schema=AUDIT)
