-- From version 1 to 2.

-- One row per version this database has had.
alter table schema_version add column applied_at timestamptz not null default now();

-- The way on the ground in the source's frame, time as the M of each point (seconds since 1970); null without
-- calibration. Tracklets never change, so neither does this, however often tracks are stitched anew.
alter table tracklets add column geom geometry(LineStringM);
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

-- Polygon or line in the frame of the source's calibration; null where its points are pixels.
alter table zones add column geom geometry;
create index on zones using gist (geom);

-- Of the calibration's frame in spatial_ref_sys; 0 where nobody knows where on earth the frame lies.
alter table calibrations add column srid integer not null default 0;

-- Observations before this time were pruned; what was made of them stays.
create table pruned (until timestamptz not null);
