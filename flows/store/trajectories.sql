-- What only PostGIS has: the ways of tracks on the ground. A track whose source was calibrated anew under way has one
-- for each frame. Ask with `where st_intersects(geom, ...)` on tracklets first: that is what the index is on.
create view trajectories as
select k.track_id, t.source_id, st_makeline(t.geom order by t.t0) as geom
from newest_links k join tracklets t on t.source_id = k.source_id and t.tracklet_id = k.tracklet_id
where t.geom is not null and k.reason <> 'wrong' group by k.track_id, t.source_id, st_srid(t.geom);
