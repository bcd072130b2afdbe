-- The views both stores share, over tables each provides: newest_links, tracklets, observations,
-- samples. Tracks that a person marked as wrong are in none of them.

-- In one pass and without a part that is used twice, so that a filter on source_id reaches the tables.
create view tracks as
with classes as (
    select k.track_id, t.source_id, t.class_name, min(t.t0) as t0, max(t.t1) as t1, count(*) as n_tracklets,
        sum(t.n_observations) as n_observations, sum(t.n_detected) as n_detected, sum(t.n_bridged) as n_bridged
    from newest_links k join tracklets t on t.source_id = k.source_id and t.tracklet_id = k.tracklet_id
    -- A tracklet without rows of its own exists for stitching alone; its times bound nothing that is stored.
    where t.n_observations > 0 and k.reason <> 'wrong'
    group by k.track_id, t.source_id, t.class_name
), votes as (
    select track_id, source_id, class_name, min(t0) over track as t0, max(t1) over track as t1,
        cast(sum(n_tracklets) over track as bigint) as n_tracklets,
        cast(sum(n_observations) over track as bigint) as n_observations,
        cast(sum(n_detected) over track as bigint) as n_detected,
        cast(sum(n_bridged) over track as bigint) as n_bridged,
        row_number() over (
            partition by source_id, track_id order by n_detected desc, n_observations desc, class_name
        ) as place
    from classes window track as (partition by source_id, track_id)
)
select track_id, source_id, class_name, t0, t1, cast(extract(epoch from (t1 - t0)) as double precision) as duration_s,
    n_tracklets, n_observations, n_detected, n_bridged
from votes where place = 1;

create view track_observations as
select o.*, k.track_id
from observations o join newest_links k on k.source_id = o.source_id and k.tracklet_id = o.tracklet_id
where k.reason <> 'wrong';

create view track_samples as
select s.*, k.track_id
from samples s join newest_links k on k.source_id = s.source_id and k.tracklet_id = s.tracklet_id
where k.reason <> 'wrong';
