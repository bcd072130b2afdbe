-- What only PostGIS has.

-- The ways of tracks on the ground. A track whose source was calibrated anew under way has one
-- for each frame. Ask with `where st_intersects(geom, ...)` on tracklets first: that is what the index is on.
create view trajectories as
select k.track_id, t.source_id, st_makeline(t.geom order by t.t0) as geom
from newest_links k join tracklets t on t.source_id = k.source_id and t.tracklet_id = k.tracklet_id
where t.geom is not null and k.reason <> 'wrong' group by k.track_id, t.source_id, st_srid(t.geom);

-- The outlines of masks stored as polygons (`store.masks`), in pixels of the frame, y down. What does not begin so is run
-- lengths, which must not be read even where a condition on the outline is tried first. Few cross themselves, being
-- simplified.
create view outlines as
select track_id, tracklet_id, source_id, video_id, ts, pts_ns, frame, class_name, state,
    case when is_polygon then st_makevalid(st_geomfromtwkb(mask)) end as geom
from (
    select *, substring(mask from 1 for 2) = '\x0600' and substring(mask from 4 for 1) = '\x01' as is_polygon
    from track_observations
) o where is_polygon;
