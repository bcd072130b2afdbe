"""Tracks + zones and lines -> events, in one pass over stored observations.

| kind | is | made by |
|---|---|---|
| `visit` | a stay in a zone, with its dwell | `visits` |
| `crossing` | of a line, with its direction | `crossings` |
| `presence` | a whole track, with its speeds and the way it went | `summary` |
| `stop`, `wait` | a span of standing; the same inside a zone | `activity` |
| `active`, `idle` | spans that cover a track: moving or working, and neither | `activity`, `work` |
| `proximity` | a person and a machine near each other | `proximity` |
| `cycle` | from a zone to another and back | `cycles` |

Before that, `steady` gives machines that work on the spot one place, and `ways` tells where vehicles head, and so how
deep they are. `paths` holds the arrays all of them read.
"""

from flows.events.compute import compute_events, recompute_events

__all__ = ["compute_events", "recompute_events"]
