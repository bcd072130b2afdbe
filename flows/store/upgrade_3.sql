-- From version 2 to 3.

-- Places.

-- Every set of zones a source was given; `zones` holds the newest.
create table zone_versions (
    source_id text collate "C" not null,
    version integer not null,
    written_at timestamptz not null default now(),
    zones text collate "C" not null,
    primary key (source_id, version)
);
insert into zone_versions (source_id, version, zones)
select source_id, 1, cast(json_agg(json_build_object(
    'name', name, 'kind', kind, 'unit', unit, 'points', cast(points as json))) as text)
from zones group by source_id;

-- Every calibration of a source, each from its time to the next; `calibrations` holds the newest.
create table calibration_versions (
    source_id text collate "C" not null,
    valid_from timestamptz not null,
    calibration text collate "C" not null,
    primary key (source_id, valid_from)
);
insert into calibration_versions select source_id, '1970-01-01 00:00+00', calibration from calibrations;

alter table events
    add column other text collate "C",
    add column speed_mean_m_s double precision,
    add column speed_p85_m_s double precision,
    add column speed_max_m_s double precision,
    add column distance_m double precision;

-- Runs and their chunks.

-- Which runs are alive: a run renews its lease while it works, and what it claimed is free once that is over.
create table leases (
    run_id text collate "C" primary key,
    until timestamptz not null
);

-- The run that began a chunk last.
create table claims (
    chunk_id text collate "C" primary key,
    run_id text collate "C" not null
);
create index on claims (run_id);

-- Up to where each source is stitched: see Store.stamp.
create table finished (
    source_id text collate "C" primary key,
    stamp text collate "C" not null
);

-- What is summed over whole archives: a million rows of JSON take half a minute. Chunks of older versions keep none.
alter table chunks add column damaged_packets bigint, add column worker_s double precision;

-- A plan asks for a video's chunks, the end of a run for a source's: a scan of a million rows for each would take days.
create index on chunks (video_id);
create index on chunks (source_id, state, updated_at);
