-- From version 2 to 3.

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
