"""One object of a chunk: what is known of it while it lives, and the tracklet it leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from flows.appearance import Looks
from flows.associate import iou
from flows.camera_motion import STILL, Affine, inverse, warp_box
from flows.config import Settings, TrackSettings
from flows.kalman import BoxKalman, smooth
from flows.mask import Mask, drawn_to_mask
from flows.outcome import Segment
from flows.schema import ENDS_NS, NS, Chunk, FloatArray, Frame, State, Video, make_id

# A mask whose box overlaps the box estimated from both sides less than this is not that object's mask.
_TRUSTED_MASK_IOU = 0.4
# How much of the way reported boxes are drawn to their masks; all of it is best on scenes, none on real people.
_DRAWN = 0.5
# One contradiction may be the detector's lapse.
_GHOST_KEYFRAMES = 2


@dataclass(frozen=True)
class Sighting:
    """One object on one frame, before smoothing.

    `box_xyxy` is what was measured, None where nothing was. The mask is kept as run lengths (`Mask.to_bytes`): a
    chunk's masks as arrays would be gigabytes.
    """

    number: int
    pts_ns: int
    state: State
    box_xyxy: FloatArray | None
    sigma: float
    confidence: float | None = None
    object_score: float | None = None
    mask: bytes | None = None
    mask_xyxy: FloatArray | None = None
    area_px: float | None = None

    def with_segment(self, segment: Segment | None) -> Sighting:
        """The same with what SAM 2 saw."""
        if segment is None or segment.mask is None:
            return self
        return replace(
            self,
            object_score=segment.object_score,
            mask=segment.mask.to_bytes(),
            mask_xyxy=segment.box_xyxy,
            area_px=float(segment.mask.area_px),
        )


class Target:
    """A live object: its motion, its class votes, its sightings.

    Args:
        target_id: Unique within the chunk.
        frame: Where it was born.
        box_xyxy: The detection it was born from, (4,) pixels.
        confidence, class_name: Of that detection.
        sigma: Deviation of the detection's edges as a share of the box's size.
        looks: What it looks like.
    """

    def __init__(
        self,
        target_id: int,
        frame: Frame,
        box_xyxy: FloatArray,
        confidence: float,
        class_name: str,
        sigma: float,
        looks: Looks,
    ) -> None:
        self.target_id = target_id
        self.kalman = BoxKalman(box_xyxy, frame.pts_ns, sigma)
        self.looks = looks
        self.votes: Counter[str] = Counter()
        self.hits = 0
        self.unmatched = 0
        self.contradicted = 0
        self.segment: Segment | None = None
        self.last_seen_ns = self._last_detected_ns = frame.pts_ns
        self.confirmed = False
        self._sightings: dict[int, Sighting] = {}
        self._confidences: list[float] = []
        self._vote(class_name, confidence)

    @property
    def class_name(self) -> str:
        """Class with the most confidence in favour of it."""
        return max(sorted(self.votes), key=lambda name: self.votes[name])

    @property
    def box_xyxy(self) -> FloatArray:
        """Where it is now: measured if it was, else predicted."""
        return self.kalman.box_xyxy

    @property
    def mean_confidence(self) -> float:
        """Mean confidence of the detections matched to it."""
        return float(np.mean(self._confidences))

    @property
    def visible(self) -> bool:
        """Whether its mask was accepted on the newest frame."""
        return self.segment is not None

    def detected(
        self,
        frame: Frame,
        box_xyxy: FloatArray,
        confidence: float,
        class_name: str,
        sigma: float,
        segment: Segment | None,
    ) -> None:
        """A detection was matched to it on this frame (or it was born of one); `segment` is its mask there."""
        if self._sightings:
            self.kalman.update(box_xyxy, sigma)
            self._vote(class_name, confidence)
        self.segment = segment
        self.unmatched = self.contradicted = 0
        self.last_seen_ns = self._last_detected_ns = frame.pts_ns
        sighting = Sighting(frame.number, frame.pts_ns, State.DETECTED, box_xyxy, sigma, confidence)
        self._see(sighting.with_segment(segment))

    def propagated(self, frame: Frame, segment: Segment, sigma: float) -> None:
        """SAM 2 carried its mask onto this frame, and it is where motion expects it."""
        self.kalman.update(segment.box_xyxy, sigma)
        self.segment = segment
        self.last_seen_ns = frame.pts_ns
        self._see(_propagated(frame, segment, sigma))

    def accompanied(self, frame: Frame, segment: Segment) -> None:
        """A mask that is not believed of itself, weak or led by a box, is kept and moves nothing yet."""
        self.segment = segment
        self._see(Sighting(frame.number, frame.pts_ns, State.INTERPOLATED, None, 0.0).with_segment(segment))

    def arrived(self, frame: Frame, box_xyxy: FloatArray, segment: Segment, sigma: float) -> None:
        """Its masks led to where it is detected on this frame, so those since the last detection say where it was.

        Masks and detections may be wrong alike: half of what they differ by at both ends, by drift and by what a
        detector counts to an object and a mask does not, is added to the masks between, the nearer end's more. Without
        a mask on this very frame nothing arrived.
        """
        here, since_ns = self._sightings.get(frame.pts_ns), self._last_detected_ns
        if here is None or here.mask_xyxy is None:
            return
        before, after = self._sightings[since_ns], (box_xyxy - segment.box_xyxy) / 2
        off = after
        if before.box_xyxy is not None and before.mask_xyxy is not None:
            off = (before.box_xyxy - before.mask_xyxy) / 2
        for pts_ns in [t for t in self._sightings if t > since_ns]:
            known = self._sightings[pts_ns]
            if known.box_xyxy is None and known.mask_xyxy is not None:
                share = (pts_ns - since_ns) / (frame.pts_ns - since_ns)
                box = (known.mask_xyxy + (1 - share) * off + share * after).astype(np.float32)
                if (box[2:] > box[:2]).all():
                    self._see(replace(known, state=State.PROPAGATED, box_xyxy=box, sigma=sigma))

    def carried_back(self, frame: Frame, segment: Segment, sigma: float) -> None:
        """Its mask was carried back onto a frame before its birth."""
        self._see(_propagated(frame, segment, sigma))

    def flown(self, number: int, pts_ns: int, box_xyxy: FloatArray, sigma: float) -> None:
        """Optical flow says where it was on an earlier frame; that counts where nothing was measured."""
        known = self._sightings.get(pts_ns, Sighting(number, pts_ns, State.INTERPOLATED, None, 0.0))
        if known.box_xyxy is None:
            self._see(replace(known, box_xyxy=box_xyxy, sigma=sigma))

    def was_seen(self, frame: Frame) -> bool:
        """Whether something says where it was on that frame."""
        sighting = self._sightings.get(frame.pts_ns)
        return sighting is not None and sighting.box_xyxy is not None

    def masked(self, frame: Frame, segment: Segment) -> None:
        """Its mask was carried back onto a frame where something else says where it was."""
        self._see(self._sightings[frame.pts_ns].with_segment(segment))

    def missed(self) -> None:
        """No detection was matched to it on a keyframe; where its mask is in view, that contradicts the mask."""
        self.unmatched += 1
        self.contradicted += self.visible

    def unseen(self, frame: Frame, state: State, object_score: float | None = None) -> None:
        """Nothing was measured on this frame: it is hidden (BRIDGED) or the frame was not looked at (INTERPOLATED)."""
        if state is State.BRIDGED:
            self.segment = None
        self._see(Sighting(frame.number, frame.pts_ns, state, None, 0.0, object_score=object_score))

    def convincing(self, settings: TrackSettings) -> bool:
        """Whether it was detected often enough, and once surely enough, to be reported whether it moves or not."""
        return self.hits >= settings.min_hits and max(self._confidences) >= settings.confirm_conf

    def is_double(self, min_hits: int) -> None:
        """It turned out to be another object's double: only what was detected as it, often enough, stays."""
        self.contradicted = _GHOST_KEYFRAMES
        self.confirmed = self.confirmed and self.hits >= min_hits

    @property
    def is_ghost(self) -> bool:
        """Whether the detector has contradicted its mask, more often than by a lapse."""
        return self.contradicted >= _GHOST_KEYFRAMES

    def undetected_seconds(self, pts_ns: int) -> float:
        """How long ago a detection was last matched to it."""
        return (pts_ns - self._last_detected_ns) / NS

    def hidden_seconds(self, pts_ns: int) -> float:
        """How long ago it was last seen."""
        return (pts_ns - self.last_seen_ns) / NS

    def _vote(self, class_name: str, confidence: float) -> None:
        self.votes[class_name] += confidence  # type: ignore[assignment]
        self.hits += 1
        self._confidences.append(confidence)

    def _see(self, sighting: Sighting) -> None:
        self._sightings[sighting.pts_ns] = sighting

    # -- what it leaves

    def rows(
        self, chunk: Chunk, settings: Settings, views: Mapping[int, Affine]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Its observations (schema OBSERVATIONS) and its tracklet (schema TRACKLETS, one row or none).

        Args:
            chunk, settings: Of the run.
            views: How the chunk's first frame is seen on others, by `pts_ns`; empty where the camera stands.
        """
        sightings = self._trimmed()
        if not sightings:
            return [], []
        # A neighbouring chunk sees some of what a border cuts, and may be surer of it.
        cut = chunk.shared_before(sightings[0].pts_ns) or chunk.shared_after(sightings[-1].pts_ns)
        if not self.confirmed and not cut:
            return [], []
        boxes = _in_frame(_boxes(sightings, settings.track.smooth, views), chunk.video)
        sightings = [_with_trusted_mask(s, box) for s, box in zip(sightings, boxes, strict=True)]
        boxes = [
            box if s.mask_xyxy is None else drawn_to_mask(box, s.mask_xyxy, _DRAWN)
            for s, box in zip(sightings, boxes, strict=True)
        ]
        own = [i for i, s in enumerate(sightings) if chunk.start_ns <= s.pts_ns < chunk.end_ns]
        if not own:
            return [], []
        tracklet_id = make_id("tracklet", chunk.chunk_id, self.target_id)
        observations = [
            self._observation(chunk, tracklet_id, sightings[i], boxes[i])
            for i in _thinned(sightings, own, settings.store.observe_hz)
        ]
        seen = [sightings[i] for i in own]
        if settings.store.masks != "rle":
            observations = [{**row, "mask": _outline(row["mask"], settings.store.masks)} for row in observations]
        return observations, [self._tracklet(chunk, tracklet_id, seen, sightings, boxes)]

    def _trimmed(self) -> list[Sighting]:
        """Sightings up to the last true one, in order of time.

        A mask the detector contradicted twice is a ghost's, and so is what it was carried to since the last detection.
        """
        ordered = [self._sightings[t] for t in sorted(self._sightings)]
        ghostly = State.PROPAGATED if self.is_ghost else None
        seen = [i for i, s in enumerate(ordered) if s.box_xyxy is not None and s.state is not ghostly]
        return ordered[: seen[-1] + 1] if seen else []

    def _observation(self, chunk: Chunk, tracklet_id: str, sighting: Sighting, box: FloatArray) -> dict[str, Any]:
        x1, y1, x2, y2 = (float(v) for v in box)
        video = chunk.video
        return {
            "source_id": video.source_id,
            "video_id": video.video_id,
            "chunk_id": chunk.chunk_id,
            "tracklet_id": tracklet_id,
            "ts": video.time_at(sighting.pts_ns),
            "pts_ns": sighting.pts_ns,
            "frame": sighting.number,
            "class_name": self.class_name,
            "state": str(sighting.state),
            "x1_px": x1,
            "y1_px": y1,
            "x2_px": x2,
            "y2_px": y2,
            "x_px": (x1 + x2) / 2,
            "y_px": y2,
            "confidence": sighting.confidence,
            "object_score": sighting.object_score,
            "area_px": sighting.area_px,
            "x_m": None,
            "y_m": None,
            "sigma_m": None,
            "mask": sighting.mask,
        }

    def _tracklet(
        self,
        chunk: Chunk,
        tracklet_id: str,
        own: Sequence[Sighting],
        sightings: Sequence[Sighting],
        boxes: Sequence[FloatArray],
    ) -> dict[str, Any]:
        states = Counter(s.state for s in own)
        times = np.array([s.pts_ns for s in sightings])
        span = max(chunk.overlap_ns, ENDS_NS)
        head = np.flatnonzero(times < times[0] + span).tolist()
        # The tail reaches back from the border, not from the last sighting: it must cover all shared frames.
        tail = np.flatnonzero(times >= min(int(times[-1]), chunk.end_ns) - span).tolist()
        return {
            "tracklet_id": tracklet_id,
            "chunk_id": chunk.chunk_id,
            "video_id": chunk.video.video_id,
            "source_id": chunk.video.source_id,
            "class_name": self.class_name,
            "class_share": float(self.votes[self.class_name] / sum(self.votes.values())),
            "confidence": self.mean_confidence,
            "t0": chunk.video.time_at(own[0].pts_ns),
            "t1": chunk.video.time_at(own[-1].pts_ns),
            "pts0_ns": own[0].pts_ns,
            "pts1_ns": own[-1].pts_ns,
            "n_observations": len(own),
            "n_detected": states[State.DETECTED],
            "n_bridged": states[State.BRIDGED],
            "head_pts_ns": times[head].tolist(),
            "head_xyxy_px": np.concatenate([boxes[i] for i in head]).tolist(),
            "tail_pts_ns": times[tail].tolist(),
            "tail_xyxy_px": np.concatenate([boxes[i] for i in tail]).tolist(),
            "appearance": self.looks.to_list(),
            "confirmed": self.confirmed,
        }


def _propagated(frame: Frame, segment: Segment, sigma: float) -> Sighting:
    sighting = Sighting(frame.number, frame.pts_ns, State.PROPAGATED, segment.box_xyxy, sigma)
    return sighting.with_segment(segment)


def _boxes(sightings: Sequence[Sighting], two_sided: bool, views: Mapping[int, Affine]) -> list[FloatArray]:
    """One box a sighting: estimated from both sides, or measured where it was and smoothed only between.

    Where the camera moves, boxes are smoothed as the chunk's first frame would show them: there motion is smooth.
    """
    own = [views.get(s.pts_ns, STILL) for s in sightings]
    measured = [
        warp_box(s.box_xyxy, inverse(view)) if views and s.box_xyxy is not None else s.box_xyxy
        for s, view in zip(sightings, own, strict=True)
    ]
    smoothed = list(smooth([s.pts_ns for s in sightings], measured, [s.sigma for s in sightings]))
    if views:
        smoothed = [warp_box(box, view) for box, view in zip(smoothed, own, strict=True)]
    if two_sided:
        return smoothed
    return [b if s.box_xyxy is None else s.box_xyxy for s, b in zip(sightings, smoothed, strict=True)]


def _in_frame(boxes: Sequence[FloatArray], video: Video) -> list[FloatArray]:
    """What of each box (4,) the frame shows, at least a pixel: detections and masks end at its edge, too."""
    width, height = video.width_px, video.height_px
    return list(np.clip(boxes, [0, 0, 1, 1], [width - 1, height - 1, width, height]).astype(np.float32))


def _with_trusted_mask(sighting: Sighting, box: FloatArray) -> Sighting:
    """The sighting without its mask where that lies elsewhere than the object; then the box is interpolated."""
    if sighting.mask_xyxy is None or iou(sighting.mask_xyxy, box) >= _TRUSTED_MASK_IOU:
        return sighting
    state = State.INTERPOLATED if sighting.state is State.PROPAGATED else sighting.state
    return replace(sighting, mask=None, mask_xyxy=None, area_px=None, state=state)


def _outline(mask: bytes | None, form: Literal["none", "polygon"]) -> bytes | None:
    return None if mask is None or form == "none" else Mask.from_bytes(mask).to_bytes(form)


def _thinned(sightings: Sequence[Sighting], own: Sequence[int], observe_hz: float | None) -> list[int]:
    """Indices to store: all, or at most `observe_hz` a second besides first, last and changes of state."""
    if observe_hz is None:
        return list(own)
    kept: list[int] = []
    due_ns = -1
    for i in own:
        sighting = sightings[i]
        changed = bool(kept) and sightings[i - 1].state is not sighting.state
        if changed or i in (own[0], own[-1]) or sighting.pts_ns >= due_ns:
            kept.append(i)
            due_ns = sighting.pts_ns + round(NS / observe_hz)
    return kept
