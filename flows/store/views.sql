-- The views both stores share, over tables each provides: newest_links, tracklets, observations,
-- samples.

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

create view track_samples as
select s.*, k.track_id
from samples s join newest_links k on k.source_id = s.source_id and k.tracklet_id = s.tracklet_id;
