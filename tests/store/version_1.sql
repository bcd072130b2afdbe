-- What version 1 made: its tables.sql, views.sql and trajectories.sql.
-- The tables of the PostGIS store, made in the schema sightflow with the search path set to it and to PostGIS's own.
-- Text compares by bytes (collate "C"), as in the Parquet store: both sort alike, and indexes are cheaper.
-- Ids are text although they are uuids: the same statements then run on both stores.

create table schema_version (version integer not null);

create table sources (
    source_id text collate "C" primary key,
    time_zone text collate "C" not null default 'UTC'
);

create table videos (
    video_id text collate "C" primary key,
    source_id text collate "C" not null,
    uri text collate "C" not null,
    content_hash text collate "C" not null,
    width_px bigint not null,
    height_px bigint not null,
    fps double precision not null,
    duration_s double precision not null,
    codec text collate "C" not null,
    container text collate "C" not null,
    rotation_deg bigint not null,
    start_time timestamptz not null
);

create table runs (
    run_id text collate "C" primary key,
    started_at timestamptz not null,
    command text collate "C" not null,
    settings text collate "C" not null
);

create table chunks (
    chunk_id text collate "C" primary key,
    video_id text collate "C" not null,
    source_id text collate "C" not null,
    index integer not null,
    start_ns bigint not null,
    end_ns bigint not null,
    overlap_ns bigint not null,
    settings_hash text collate "C" not null,
    state text collate "C" not null,
    attempts integer not null,
    error text collate "C",
    rows bigint not null,
    frames bigint not null,
    counters text collate "C" not null,
    timings text collate "C" not null,
    updated_at timestamptz not null
);

-- Where a chunk's observations lie, so that a chunk committed again finds its earlier rows through the index on time.
create table chunk_extents (
    chunk_id text collate "C" primary key,
    t0 timestamptz not null,
    t1 timestamptz not null
);

create table tracklets (
    tracklet_id text collate "C" not null,
    chunk_id text collate "C" not null,
    video_id text collate "C" not null,
    source_id text collate "C" not null,
    class_name text collate "C" not null,
    class_share real not null,
    confidence real not null,
    t0 timestamptz not null,
    t1 timestamptz not null,
    pts0_ns bigint not null,
    pts1_ns bigint not null,
    n_observations integer not null,
    n_detected integer not null,
    n_bridged integer not null,
    head_pts_ns bigint[] not null,
    head_xyxy_px real[] not null,
    tail_pts_ns bigint[] not null,
    tail_xyxy_px real[] not null,
    appearance real[] not null
);
create index on tracklets (source_id, tracklet_id);
create index on tracklets (chunk_id);

create table link_versions (
    source_id text collate "C" not null,
    version integer not null,
    primary key (source_id, version)
);

-- Which links are the newest is written down, not asked each time: the planner then knows how many there are. With a
-- guess of two it went through all observations once per link.
create table links (
    tracklet_id text collate "C" not null,
    track_id text collate "C" not null,
    source_id text collate "C" not null,
    version integer not null,
    score real,
    reason text collate "C" not null,
    newest boolean not null default true
);
create index on links (source_id, version);

create view track_links as
select tracklet_id, track_id, source_id, version, score, reason from links;

create view newest_links as
select tracklet_id, track_id, source_id, version, score, reason from links where newest;

-- One partition per day, made as days come: a table observations_<yyyymmdd>.
create table observations (
    source_id text collate "C" not null,
    video_id text collate "C" not null,
    chunk_id text collate "C" not null,
    tracklet_id text collate "C" not null,
    ts timestamptz not null,
    pts_ns bigint not null,
    frame bigint not null,
    class_name text collate "C" not null,
    state text collate "C" not null,
    x1_px real not null,
    y1_px real not null,
    x2_px real not null,
    y2_px real not null,
    x_px real not null,
    y_px real not null,
    confidence real,
    object_score real,
    area_px real,
    x_m double precision,
    y_m double precision,
    sigma_m real,
    mask bytea,
    -- (x_m, y_m) in the source's local frame (SRID 0); null without calibration.
    geom geometry(Point)
) partition by range (ts);
-- More indexes than these halve the speed of loading and again (measured); tracks and events are small beside this.
create index on observations using brin (ts);
create index on observations (source_id, ts);

create table zones (
    source_id text collate "C" not null,
    name text collate "C" not null,
    kind text collate "C" not null,
    unit text collate "C" not null,
    points text collate "C" not null
);
create index on zones (source_id);

create table calibrations (
    source_id text collate "C" primary key,
    calibration text collate "C" not null
);

create table events (
    event_id text collate "C" not null,
    source_id text collate "C" not null,
    track_id text collate "C" not null,
    class_name text collate "C" not null,
    kind text collate "C" not null,
    zone text collate "C" not null,
    ts timestamptz not null,
    duration_s double precision,
    direction text collate "C",
    inferred boolean not null
);
create index on events (source_id, ts);
-- The views both stores share, over tables each provides: newest_links, tracklets, observations.

create view tracks as
with members as (
    select k.track_id, t.source_id, t.class_name, t.t0, t.t1, t.n_observations, t.n_detected, t.n_bridged
    from newest_links k join tracklets t on t.source_id = k.source_id and t.tracklet_id = k.tracklet_id
    -- A tracklet without rows of its own exists for stitching alone; its times bound nothing that is stored.
    where t.n_observations > 0
), votes as (
    select track_id, source_id, class_name,
        row_number() over (
            partition by track_id, source_id order by sum(n_detected) desc, sum(n_observations) desc, class_name
        ) as place
    from members group by track_id, source_id, class_name
), spans as (
    select track_id, source_id, min(t0) as t0, max(t1) as t1, count(*) as n_tracklets,
        cast(sum(n_observations) as bigint) as n_observations,
        cast(sum(n_detected) as bigint) as n_detected,
        cast(sum(n_bridged) as bigint) as n_bridged
    from members group by track_id, source_id
)
select s.track_id, s.source_id, v.class_name, s.t0, s.t1,
    cast(extract(epoch from (s.t1 - s.t0)) as double precision) as duration_s,
    s.n_tracklets, s.n_observations, s.n_detected, s.n_bridged
from spans s join votes v on v.track_id = s.track_id and v.source_id = s.source_id and v.place = 1;

create view track_observations as
select o.*, k.track_id
from observations o join newest_links k on k.source_id = o.source_id and k.tracklet_id = o.tracklet_id;
-- What only PostGIS has: the paths of tracks on the ground, time as the M of each point (seconds since 1970).
create view trajectories as
select track_id, source_id,
    st_makeline(st_makepointm(x_m, y_m, cast(extract(epoch from ts) as double precision)) order by ts) as geom
from track_observations where geom is not null group by track_id, source_id;
insert into schema_version values (1);
