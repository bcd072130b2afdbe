"""New objects -> where they entered: their masks carried backwards, at most to the previous keyframe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from flows.config import TrackSettings
from flows.kalman import BoxKalman
from flows.schema import Frame
from flows.segment import VideoSegmenter
from flows.target import Target
from flows.trust import DETECTION_SIGMA, MaskTrust, within_reach


def carry_back(
    born: Mapping[int, Target],
    recent: Sequence[Frame],
    segmenter: VideoSegmenter,
    trust: MaskTrust,
    settings: TrackSettings,
    gate: float,
) -> None:
    """Report newborn objects from where they entered, as long as their masks move as objects do.

    Args:
        born: Objects by id, prompted on the newest frame and visible there.
        recent: Frames that were segmented since the last keyframe, that one and the newest included.
        segmenter, trust, settings: Of the chunk.
        gate: Largest squared Mahalanobis distance of a mask from where motion expects it.
    """
    if not born or len(recent) < 2:
        return
    newest, *earlier = list(recent)[::-1]
    following = set(born)
    # Time runs backwards, so the filters see it mirrored about the newest frame.
    filters = {i: BoxKalman(target.box_xyxy, 0, DETECTION_SIGMA) for i, target in born.items()}
    areas = {i: s.mask.area_px for i, target in born.items() if (s := target.segment) and s.mask}
    for frame, segments in zip(earlier, segmenter.carry_back(following), strict=False):
        for i in sorted(following):
            filters[i].predict(newest.pts_ns - frame.pts_ns)
            segment = within_reach(segments[i], filters[i])
            if segment.mask is None or segment.object_score <= settings.min_object_score:
                following.discard(i)
                continue
            change = segment.mask.area_px / max(areas[i], 1)
            inside = filters[i].distance2(segment.box_xyxy, trust.sigma) <= gate
            # An object that enters grows into view, so only a mask that swells backwards has gone astray.
            if not inside or change > settings.max_area_change:
                following.discard(i)
                continue
            areas[i] = segment.mask.area_px
            filters[i].update(segment.box_xyxy, trust.sigma)
            born[i].carried_back(frame, segment, trust.sigma)


def mask_back(
    born: Mapping[int, Target], recent: Sequence[Frame], segmenter: VideoSegmenter, settings: TrackSettings
) -> None:
    """Give newborn objects their masks on the frames before, as far back as flow says where they were.

    Args:
        born: Objects by id, prompted on the newest frame.
        recent: Frames that were segmented since the last keyframe, that one and the newest included.
        segmenter, settings: Of the chunk.
    """
    earlier = list(recent)[-2::-1]
    following = {i for i, target in born.items() if earlier and target.was_seen(earlier[0])}
    for (frame, before), segments in zip(pairwise(earlier), segmenter.carry_back(following), strict=False):
        for i in following:
            if segments[i].object_score > settings.min_object_score:
                born[i].masked(frame, segments[i])
        following -= {i for i in following if not born[i].was_seen(before)}
