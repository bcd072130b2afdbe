"""The SQL of the reports, in what DuckDB and PostgreSQL share and agree on to the last bit.

Every parameter is cast (it may be null), sums are of whole numbers (a sum of real numbers depends on their order),
seconds are summed as milliseconds, and a percentile is a value that occurs (nearest rank), never one between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Report:
    """One question to a store. `parameters` maps the names the SQL binds to their defaults; None does not filter."""

    name: str
    title: str
    sql: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


_FILTERS: dict[str, Any] = {"source": None, "t0": None, "t1": None, "class": None}
_SOURCE = "(cast($source as text) is null or source_id = cast($source as text))"
_CLASS = "(cast($class as text) is null or class_name = cast($class as text))"
_BIN_S = "cast($bin_seconds as double precision)"
_BIN_MS = "(cast($bin_seconds as bigint) * 1000)"


def _from(time: str) -> str:
    return f"(cast($t0 as timestamptz) is null or {time} >= cast($t0 as timestamptz))"


def _until(time: str) -> str:
    return f"(cast($t1 as timestamptz) is null or {time} < cast($t1 as timestamptz))"


def _within(time: str) -> str:
    return f"{_SOURCE} and {_CLASS} and {_from(time)} and {_until(time)}"


def _whole(value: str) -> str:
    """The nearest whole number."""
    return f"cast(floor({value} + 0.5) as bigint)"


def _epoch(time: str) -> str:
    return f"cast(extract(epoch from {time}) as double precision)"


def _seconds(column: str) -> str:
    """The sum of a column of seconds, to the millisecond and independent of the rows' order."""
    return f"cast(sum({_whole(f'{column} * 1000')}) as double precision) / 1000"


def _hours(milliseconds: str) -> str:
    return f"cast(sum({milliseconds}) as double precision) / 3600000"


def _bin_start(time: str) -> str:
    return f"to_timestamp(floor({_epoch(time)} / {_BIN_S}) * {_BIN_S})"


_BY_TIME = {**_FILTERS, "bin_seconds": 3600}

# A second that was never seen, only bridged or interpolated, says nothing about movement.
_SEEN = "n_observations > n_bridged + n_interpolated"

_MOVES = f"""
    select source_id, track_id, class_name, ts, {_whole("duration_s * 1000")} as present_ms,
        case when motion_per_s >= cast($min_motion as double precision) then {_whole("duration_s * 1000")} else 0
        end as active_ms
    from track_samples where {_within("ts")}
"""
_TIMES = f"""
    {_hours("present_ms")} as present_h, {_hours("active_ms")} as active_h,
    {_hours("present_ms - active_ms")} as idle_h,
    cast(sum(active_ms) as double precision) / nullif(cast(sum(present_ms) as double precision), 0) as active_share
"""


def _at_once(kind: str) -> str:
    """How many events of a kind last at once, per zone and time bin: the mean over the bin, and the most.

    The most: +1 where one begins, -1 where it ends, summed up in order of time. A 0 at the start of every bin carries
    over what goes on by then. An end counts before a begin at the same millisecond.
    """
    return f"""
    with stays as (
        select source_id, zone,
            greatest({_whole(f"{_epoch('ts')} * 1000")}, {_whole(f"{_epoch('cast($t0 as timestamptz)')} * 1000")})
                as a,
            least({_whole(f"{_epoch('ts')} * 1000")} + {_whole("duration_s * 1000")},
                {_whole(f"{_epoch('cast($t1 as timestamptz)')} * 1000")}) as b
        from events where kind = '{kind}' and {_SOURCE} and {_CLASS} and {_until("ts")}
    ), bins as (
        select v.source_id, v.zone, v.a, v.b, g.bin * {_BIN_MS} as t
        from stays v cross join lateral generate_series(
            cast(floor(v.a / cast({_BIN_MS} as double precision)) as bigint),
            cast(floor((v.b - 1) / cast({_BIN_MS} as double precision)) as bigint)
        ) as g(bin) where v.b > v.a
    ), edges as (
        select source_id, zone, a as t, 1 as step from stays where b > a
        union all select source_id, zone, b, -1 from stays where b > a
        union all select distinct source_id, zone, t, 0 from bins
    ), levels as (
        select source_id, zone, floor(t / cast({_BIN_MS} as double precision)) as bin,
            sum(step) over (partition by source_id, zone order by t, step rows unbounded preceding) as inside
        from edges
    ), peaks as (
        select source_id, zone, bin, max(inside) as most from levels group by source_id, zone, bin
    ), means as (
        select source_id, zone, floor(t / cast({_BIN_MS} as double precision)) as bin,
            sum(least(b, t + {_BIN_MS}) - greatest(a, t)) as inside_ms
        from bins group by source_id, zone, t
    )
    select to_timestamp(m.bin * {_BIN_S}) as bin_start, m.source_id, m.zone,
        cast(m.inside_ms as double precision) / cast({_BIN_MS} as double precision) as mean_objects,
        cast(p.most as bigint) as most_objects
    from means m join peaks p on p.source_id = m.source_id and p.zone = m.zone and p.bin = m.bin
    order by bin_start, m.source_id, m.zone
    """


ALL = (
    Report(
        "counts",
        "Tracks per class",
        f"""
        select class_name, count(*) as tracks, cast(sum(n_observations) as bigint) as observations,
            {_seconds("duration_s")} as total_s, min(t0) as first_seen, max(t1) as last_seen
        from tracks
        where {_SOURCE} and {_CLASS} and {_from("t1")} and {_until("t0")}
        group by class_name order by tracks desc, class_name
        """,
        _FILTERS,
    ),
    Report(
        "counts_by_hour",
        "Tracks per class and time bin, by when each was first seen",
        f"""
        select {_bin_start("t0")} as bin_start, class_name, count(*) as tracks
        from tracks where {_within("t0")}
        group by 1, 2 order by 1, 2
        """,
        _BY_TIME,
    ),
    Report(
        "tracks",
        "Tracks in view at any time between t0 and t1",
        f"""
        select track_id, source_id, class_name, t0, t1, duration_s, n_observations, n_detected, n_bridged
        from tracks
        where {_SOURCE} and {_CLASS} and {_from("t1")} and {_until("t0")}
            and duration_s >= cast($min_seconds as double precision)
            and (cast($zone as text) is null or track_id in (select track_id from events
                where zone = cast($zone as text) and {_SOURCE}))
        order by t0, source_id, track_id limit cast($limit as bigint)
        """,
        {**_FILTERS, "zone": None, "min_seconds": 0.0, "limit": None},
    ),
    Report(
        "zones",
        "Visits and dwell per zone and class",
        f"""
        select source_id, zone, class_name, count(*) as visits, count(distinct track_id) as tracks,
            {_seconds("duration_s")} as total_s,
            {_seconds("duration_s")} / cast(count(duration_s) as double precision) as mean_s,
            percentile_disc(0.5) within group (order by duration_s) as median_s, max(duration_s) as longest_s
        from events
        where kind = 'visit' and {_within("ts")}
        group by source_id, zone, class_name order by source_id, zone, class_name
        """,
        _FILTERS,
    ),
    Report(
        "occupancy",
        "Objects in each zone per time bin: mean over the bin, and most at once",
        _at_once("visit"),
        _BY_TIME,
    ),
    Report(
        "queue",
        "Objects standing in each zone per time bin: mean over the bin, and most at once",
        _at_once("wait"),
        _BY_TIME,
    ),
    Report(
        "od",
        "Origin and destination: tracks by the first and the last zone they visited, of those with two visits or more",
        f"""
        with visits as (
            select source_id, track_id, class_name, zone,
                row_number() over (partition by source_id, track_id order by ts, event_id) as place,
                count(*) over (partition by source_id, track_id) as n
            from events where kind = 'visit' and {_within("ts")}
        )
        select o.source_id, o.zone as origin, d.zone as destination, o.class_name, count(*) as tracks
        from visits o join visits d on d.source_id = o.source_id and d.track_id = o.track_id
        where o.place = 1 and d.place = d.n and d.n > 1
        group by o.source_id, o.zone, d.zone, o.class_name order by o.source_id, o.zone, d.zone, o.class_name
        """,
        _FILTERS,
    ),
    Report(
        "lines",
        "Crossings per line, direction and class",
        f"""
        select source_id, zone as line, class_name, direction, count(*) as crossings,
            count(distinct track_id) as tracks, cast(sum(case when inferred then 1 else 0 end) as bigint) as inferred
        from events
        where kind = 'crossing' and {_within("ts")}
        group by source_id, zone, class_name, direction order by source_id, zone, class_name, direction
        """,
        _FILTERS,
    ),
    Report(
        "lines_by_hour",
        "Crossings per line, direction, class and time bin",
        f"""
        select {_bin_start("ts")} as bin_start, source_id, zone as line, class_name, direction, count(*) as crossings
        from events
        where kind = 'crossing' and {_within("ts")}
        group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5
        """,
        _BY_TIME,
    ),
    Report(
        "heatmap",
        "Seconds of presence per cell of a grid, in pixels or metres",
        f"""
        with points as (
            select source_id, track_id, {_whole("duration_s * 1000")} as ms,
                case when cast($unit as text) = 'm' then x_m else x_px end as x,
                case when cast($unit as text) = 'm' then y_m else y_px end as y
            from track_samples where {_within("ts")}
        ), cells as (
            -- Adding 0 makes one of the two zeros a real number has.
            select source_id, track_id, sum(ms) as ms,
                floor(x / cast($cell as double precision)) * cast($cell as double precision) + 0.0 as x,
                floor(y / cast($cell as double precision)) * cast($cell as double precision) + 0.0 as y
            from points where x is not null and y is not null group by 1, 2, 4, 5
        )
        select source_id, x, y, cast(sum(ms) as double precision) / 1000 as seconds, count(*) as tracks
        from cells group by source_id, x, y order by source_id, y, x
        """,
        {**_FILTERS, "unit": "px", "cell": 40.0},
    ),
    Report(
        "speed",
        "Speed over the ground per source and class, of calibrated sources: mean and 85th percentile of seconds seen",
        f"""
        select source_id, class_name, count(*) as seconds,
            cast(sum({_whole("speed_m_s * 1000")}) as double precision) / 1000 / cast(count(*) as double precision)
                as mean_m_s,
            percentile_disc(0.85) within group (order by speed_m_s) as p85_m_s, max(speed_m_s) as max_m_s
        from track_samples
        where speed_m_s < 1e6 and {_SEEN} and {_within("ts")}
        group by source_id, class_name order by source_id, class_name
        """,
        _FILTERS,
    ),
    Report(
        "activity",
        "Hours present, active and idle per source and class; active is who moves by min_motion box sizes a second",
        f"""
        with moves as ({_MOVES})
        select source_id, class_name, count(distinct track_id) as tracks, {_TIMES}
        from moves
        group by source_id, class_name order by source_id, class_name
        """,
        {**_FILTERS, "min_motion": 0.1},
    ),
    Report(
        "activity_by_track",
        "Hours present, active and idle per object",
        f"""
        with moves as ({_MOVES})
        select source_id, track_id, class_name, min(ts) as first_seen, {_TIMES}
        from moves
        group by source_id, track_id, class_name order by source_id, first_seen, track_id
        """,
        {**_FILTERS, "min_motion": 0.1},
    ),
    Report(
        "quality",
        "How observations are known: share of each state, per class",
        f"""
        with sums as (
            select class_name, cast(sum(n_observations) as bigint) as n, cast(sum(n_detected) as bigint) as detected,
                cast(sum(n_bridged) as bigint) as bridged, cast(sum(n_interpolated) as bigint) as interpolated
            from track_samples where {_within("ts")} group by class_name
        ), states as (
            select class_name, n, 'bridged' as state, bridged as observations from sums
            union all select class_name, n, 'detected', detected from sums
            union all select class_name, n, 'interpolated', interpolated from sums
            union all select class_name, n, 'propagated', n - detected - bridged - interpolated from sums
        )
        select class_name, state, observations, cast(observations as double precision) / cast(n as double precision)
            as share
        from states where observations > 0 order by class_name, state
        """,
        _FILTERS,
    ),
    Report(
        "inferred",
        "Share of the time in which nobody saw the object, only bridged or interpolated, per source and class",
        # By time, not by rows: thinning keeps other shares of moving states than of steady ones.
        f"""
        with times as (
            select source_id, class_name, {_whole("duration_s * 1000")} as ms,
                {_whole("duration_s * 1000 * cast(n_bridged + n_interpolated as double precision) / n_observations")}
                    as inferred_ms
            from track_samples where {_within("ts")}
        )
        select source_id, class_name, cast(sum(ms) as double precision) / 1000 as seconds,
            cast(sum(inferred_ms) as double precision) / 1000 as inferred_s,
            cast(sum(inferred_ms) as double precision) / nullif(cast(sum(ms) as double precision), 0) as share
        from times group by source_id, class_name order by source_id, class_name
        """,
        _FILTERS,
    ),
    Report(
        "ledger",
        "Chunks per source and state, with what went wrong",
        f"""
        select source_id, state, error, count(*) as chunks, cast(sum(attempts) as bigint) as attempts,
            cast(sum(rows) as bigint) as observations, cast(sum(frames) as bigint) as frames,
            cast(sum(end_ns - start_ns) as double precision) / 1e9 as video_s,
            cast(coalesce(sum(damaged_packets), 0) as bigint) as damaged_packets, coalesce(sum(worker_s), 0) as worker_s
        from chunks where {_SOURCE}
        group by source_id, state, error order by source_id, state, error
        """,
        {"source": None},
    ),
)
"""Every report."""
