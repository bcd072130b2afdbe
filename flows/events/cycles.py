"""Visits -> cycles: an object that goes from one zone to another and comes back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from flows.events.paths import Found


def cycles(visits: pa.Table, names: list[str]) -> list[Found]:
    """The cycles A -> B -> A among visits (schema EVENTS); repeated visits of one zone in a row are one stop of it.

    A cycle is an event of zone A with B as its `other`. It begins where the stop in A does and lasts until the next
    stop in A begins, so that the cycles of a machine that shuttles follow each other without gaps.

    Args:
        visits: of one source.
        names: the zones, in the order in which events shall come.
    """
    if visits.num_rows < 3:
        return []
    order = pa.compute.sort_indices(visits, [("track_id", "ascending"), ("ts", "ascending")])
    track, zone = (
        visits[name].combine_chunks().dictionary_encode().indices.to_numpy()[order.to_numpy()]
        for name in ("track_id", "zone")
    )
    row, t_us = order.to_numpy(), visits["ts"].cast(pa.int64()).to_numpy()[order.to_numpy()]
    stop = np.flatnonzero(np.append(True, (np.diff(track) != 0) | (np.diff(zone) != 0)))
    home, back = stop[:-2], stop[2:]
    closed = (track[home] == track[back]) & (zone[home] == zone[back])
    home, away, back = home[closed], stop[1:-1][closed], back[closed]
    zone_names = np.array(visits["zone"].combine_chunks().dictionary_encode().dictionary.to_pylist(), dtype=np.str_)
    found = []
    for name in names:
        own = zone_names[zone[home]] == name
        found.append(
            Found(
                "cycle",
                name,
                row[home[own]],
                t_us[home[own]],
                duration_us=t_us[back[own]] - t_us[home[own]],
                other=zone_names[zone[away[own]]],
            )
        )
    return found
