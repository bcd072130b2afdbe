-- What only PostGIS has: the paths of tracks on the ground, time as the M of each point (seconds since 1970).
create view trajectories as
select track_id, source_id,
    st_makeline(st_makepointm(x_m, y_m, cast(extract(epoch from ts) as double precision)) order by ts) as geom
from track_observations where geom is not null group by track_id, source_id;
