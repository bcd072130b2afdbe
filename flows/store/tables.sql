-- The tables of the PostGIS store, made in the schema sightflow with the search path set to it and to PostGIS's own.
-- Text compares by bytes (collate "C"), as in the Parquet store: both sort alike, and indexes are cheaper.
-- Ids are text although they are uuids: the same statements then run on both stores.
-- This is the newest version whole; `upgrade_<n>.sql` leads a database of version n - 1 to n. Change both together.

-- One row per version this database has had.
create table schema_version (
    version integer not null,
    applied_at timestamptz not null default now()
);

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
    appearance real[] not null,
    -- The way on the ground in the source's frame, time as the M of each point (seconds since 1970); null without
    -- calibration. Tracklets never change, so neither does this, however often tracks are stitched anew.
    geom geometry(LineStringM)
);
create index on tracklets (source_id, tracklet_id);
create index on tracklets (chunk_id);
create index on tracklets using gist (geom);

-- One row per tracklet and second: what reports of presence and movement read. A twenty-fifth of the observations.
create table samples (
    source_id text collate "C" not null,
    chunk_id text collate "C" not null,
    tracklet_id text collate "C" not null,
    class_name text collate "C" not null,
    ts timestamptz not null,
    duration_s double precision not null,
    x_px double precision not null,
    y_px double precision not null,
    x_m double precision,
    y_m double precision,
    speed_m_s double precision,
    motion_per_s double precision,
    n_observations bigint not null,
    n_detected bigint not null,
    n_bridged bigint not null,
    n_interpolated bigint not null
);
create index on samples (source_id, ts);

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
    points text collate "C" not null,
    -- Polygon or line in the frame of the source's calibration; null where its points are pixels.
    geom geometry
);
create index on zones (source_id);
create index on zones using gist (geom);

create table calibrations (
    source_id text collate "C" primary key,
    calibration text collate "C" not null,
    -- Of its frame in spatial_ref_sys; 0 where nobody knows where on earth the frame lies.
    srid integer not null default 0
);

-- Observations before this time were pruned; what was made of them stays.
create table pruned (until timestamptz not null);

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
