-- The tables of the PostGIS store, made in the schema sightflow with the search path set to it and to PostGIS's own.
-- Text compares by bytes (collate "C"), as in the Parquet store: both sort alike, and indexes are cheaper.
-- Ids are text although they are uuids: the same statements then run on both stores.
-- This is version 1; every `upgrade_<n>.sql` leads from version n - 1 to n, and a new database goes all the way.

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

-- One partition per day, made as days come, dropped when they are pruned: a table observations_<yyyymmdd>.
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
    -- (x_m, y_m) in the frame of the source's calibration, whose SRID it carries; null without calibration.
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
