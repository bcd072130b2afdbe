-- From version 1 to 2: paths on tracklets, samples, frames of calibrations, zones as geometries, retention.

alter table schema_version add column applied_at timestamptz not null default now();

alter table tracklets add column geom geometry(LineStringM);
create index on tracklets using gist (geom);

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

alter table zones add column geom geometry;
create index on zones using gist (geom);

alter table calibrations add column srid integer not null default 0;

create table pruned (until timestamptz not null);
