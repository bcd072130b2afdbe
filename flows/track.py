"""The loop inside a chunk: match, birth, correct, bridge, end -> tracklets + observations.

On every frame SAM 2 carries all live objects and the Kalman filters say where they should be; on keyframes the
detector's boxes are matched to them. What happens to an object, in one place each:

- `_follow`: its mask is where motion expects it (propagated), elsewhere (drifted) or gone (bridged)
- `_match`: a detection confirms it, and resets a mask that disagrees
- `_bear`: a detection that is nobody's starts an object, back to where it entered
- `_end`: it left, stayed hidden too long, was missed too often, or is another object's double
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pyarrow as pa
import supervision as sv

from flows.appearance import Looks
from flows.associate import associate, coverage, iou_matrix
from flows.camera_motion import STILL, Affine, CameraMotion, compose
from flows.config import Settings
from flows.cues import Cues, Evidence, candidate
from flows.entry import carry_back, mask_back
from flows.kalman import gate_threshold
from flows.outcome import Segment
from flows.schema import OBSERVATIONS, TRACKLETS, Chunk, ChunkResult, FloatArray, Frame, State
from flows.segment import VideoSegmenter
from flows.target import Target
from flows.trust import DETECTION_SIGMA, MaskTrust, detection_sigma, within_prompt, within_reach

Redetect = Callable[[Frame], sv.Detections]

# A detection that lies to this share inside a live object of its class is a part of it, not another one ...
_PART_COVERAGE = 0.8
# ... and so is an unsure one that shares more of the lesser box and of the lesser mask with it: a detector may see a
# long truck twice, each time another half; two objects would share boxes, but few pixels.
_SHARED = 0.5
# A mask led by boxes that lies so on the detection matched to its object is taken for that object's since the last one.
_ARRIVED_IOU = 0.5
# A weak detection that looks more different from an object is of something else on its place: right matches of weak
# detections differ by up to 0.35 (PETS09, TUD-Campus), parts of a forklift from a person by 0.5.
_WEAK_DIFFERENCE = 0.4
# Four of a box and two of looks.
_LED_DEGREES_OF_FREEDOM = 6
# What was detected so often, and got so many of its sizes from where it was at first, is real however unsure each
# detection was: of what was never detected with 0.65 in scenes, PETS09 and TUD-Campus only a woman walked.
_MOVING_HITS, _MOVING_SIZES = 3, 1.0


class ChunkTracker:
    """Tracks the objects of one chunk.

    Args:
        chunk: What is tracked.
        segmenter: Fresh, for frames of the chunk's size.
        settings: All settings of the run.
        redetect: Runs the detector on a frame that is no keyframe, when an object drifts there; None never does.
        every: Frames from keyframe to keyframe.
    """

    def __init__(
        self,
        chunk: Chunk,
        segmenter: VideoSegmenter,
        settings: Settings,
        every: int,
        redetect: Redetect | None = None,
    ) -> None:
        self._chunk = chunk
        self._segmenter = segmenter
        self._settings = settings
        self._track = settings.track
        self._every = every
        self._redetect = redetect
        self._gate = gate_threshold(settings.track.gate_probability)
        self._led_gate = gate_threshold(settings.track.gate_probability, _LED_DEGREES_OF_FREEDOM)
        self._live: dict[int, Target] = {}
        self._recent: deque[Frame] = deque()
        self._camera = CameraMotion() if settings.track.compensate_camera else None
        self._views: dict[int, Affine] = {}
        self._view = STILL
        self._unsegmented = 0
        self._trust = MaskTrust(every, led=segmenter.starts_from_boxes)
        self._cues = Cues()
        self._drifted: set[int] = set()
        self._looked_at_number: int | None = None
        self._next_id = 0
        self._observations = [OBSERVATIONS.empty_table()]
        self._tracklets = [TRACKLETS.empty_table()]
        self.counters = dict.fromkeys(
            ("frames", "keyframes", "redetections", "born", "confirmed", "corrected", "drifted", "duplicates"), 0
        )

    def run(self, frames: Iterable[Frame], detections: Mapping[int, sv.Detections]) -> ChunkResult:
        """Track through the chunk's frames, given the detections of its keyframes by `pts_ns`."""
        for frame in frames:
            self._step(frame, detections.get(frame.pts_ns))
        for target in list(self._live.values()):
            self._retire(target)
        tracklets = pa.concat_tables(self._tracklets)
        return ChunkResult(
            self._chunk,
            pa.concat_tables(self._observations),
            tracklets,
            counters={**self.counters, **self._segmenter.counters, "tracklets": tracklets.num_rows},
        )

    def _step(self, frame: Frame, found: sv.Detections | None) -> None:
        self._follow_camera(frame)
        # Prompts need the frame's features, so keyframes are segmented whatever `segment_every` says.
        segmented = found is not None or self.counters["frames"] % self._settings.segment.segment_every == 0
        self.counters["frames"] += 1
        segments = None
        if segmented:
            segments = self._segmenter.push(frame.image_rgb, self._unsegmented + 1)
            self._recent.append(frame)
            self._unsegmented = 0
        else:
            self._unsegmented += 1
        self._cues.push(frame)
        self._follow(frame, segments)
        if found is None and segmented and self._may_redetect(frame):
            assert self._redetect is not None
            found = self._redetect(frame)
            self.counters["redetections"] += 1
        if found is not None:
            self.counters["keyframes"] += 1
            self._looked_at_number = frame.number
            self._match(frame, found)
            self._segmenter.forget_frames()
            self._recent = deque([frame])
            self._cues.seen(self._live.values())
        self._end(frame)

    # -- every frame

    def _follow_camera(self, frame: Frame) -> None:
        """Take every object along with the camera; `_views` says how the chunk's first frame is seen on each."""
        if self._camera is None:
            return
        targets = list(self._live.values())
        motion = self._camera.push(frame.image_rgb, np.array([t.box_xyxy for t in targets]))
        self.counters["camera_lost"] = self._camera.lost
        for target in targets:
            target.kalman.warp(motion)
        self._view = self._views[frame.pts_ns] = compose(self._view, motion)

    def _follow(self, frame: Frame, segments: Mapping[int, Segment] | None) -> None:
        """Move every object on to this frame by its mask, or by motion alone."""
        self._drifted.clear()
        for target in self._live.values():
            target.kalman.predict(frame.pts_ns)
            if segments is None:
                target.unseen(frame, State.INTERPOLATED)
                continue
            whole = segments[target.target_id]
            # What a mask led by a box is worth shows when its object is detected again.
            led = self._segmenter.starts_from_boxes
            segment = whole if led else within_reach(whole, target.kalman)
            if whole.mask is None or segment.object_score <= self._track.min_object_score:
                target.unseen(frame, State.BRIDGED, segment.object_score)
            elif led or (segment.mask is not None and self._expected(target, segment)):
                if self._trust.holds:
                    target.propagated(frame, segment, self._trust.carried_sigma)
                else:
                    target.accompanied(frame, segment)
            elif not self._trust.holds:
                target.unseen(frame, State.INTERPOLATED, segment.object_score)
            else:
                self._drifted.add(target.target_id)
                self.counters["drifted"] += 1
                target.unseen(frame, State.BRIDGED, segment.object_score)

    def _expected(self, target: Target, segment: Segment) -> bool:
        """Whether a mask lies inside the gate and has not jumped in area."""
        assert segment.mask is not None
        before = target.segment.mask if target.segment else None
        if before is not None:
            change = segment.mask.area_px / max(before.area_px, 1)
            if not 1 / self._track.max_area_change <= change <= self._track.max_area_change:
                return False
        return target.kalman.distance2(segment.box_xyxy, self._trust.sigma) <= self._gate

    def _may_redetect(self, frame: Frame) -> bool:
        """Whether a confirmed object drifted here, and the detector did not look just before."""
        if self._redetect is None or not any(self._live[i].confirmed for i in self._drifted):
            return False
        # At most three looks a keyframe interval, or a crowd of drifting masks would cost a look at every frame.
        least = max(1, self._every // 3)
        return self._looked_at_number is None or frame.number - self._looked_at_number >= least

    # -- keyframes

    def _match(self, frame: Frame, found: sv.Detections) -> None:
        """Match detections to live objects; what is left over ages an object or starts one."""
        targets = list(self._live.values())
        names = [str(name) for name in found.data.get("class_name", ())]
        confidences = found.confidence if found.confidence is not None else np.zeros(0)
        strong = np.flatnonzero(confidences >= self._track.tentative_conf)
        weak = np.flatnonzero(confidences < self._track.tentative_conf)
        matched: dict[int, int] = {}
        evidence = self._cues.evidence(
            frame.image_rgb, found.xyxy, targets, self._trust.choose, self._view if self._camera else None
        )
        # ByteTrack's order (Zhang et al. 2022): weak detections keep objects alive but never take a strong one's.
        for rows, max_difference in ((strong, 1.0), (weak, _WEAK_DIFFERENCE)):
            free = [i for i, t in enumerate(targets) if t.target_id not in matched]
            boxes, looks = found.xyxy[rows], evidence.looks[rows]
            candidates = [candidate(targets[i], evidence.overlap[i, rows], boxes, looks, DETECTION_SIGMA) for i in free]
            pairs = associate(
                candidates,
                [names[r] for r in rows],
                min_iou=self._track.match_iou,
                gate=self._gate,
                led_gate=self._led_gate,
                max_difference=max_difference,
            )
            matched.update({targets[free[i]].target_id: int(rows[j]) for i, j in pairs})
        for target in targets:
            if target.target_id not in matched:
                target.missed()
                if not self._trust.holds:
                    for flown in self._cues.departure(target.target_id, target.looks.latest, self._recent):
                        target.flown(*flown)
        for target_id, row in matched.items():
            self._live[target_id].looks.take(
                evidence.looks[row], clear=bool(evidence.clear[row]), whole=bool(evidence.whole[row])
            )
        self._confirm(frame, found, names, matched)
        taken = set(matched.values())
        starting = strong
        if self._chunk.shared_before(frame.pts_ns):
            # An object known from before the border would have been kept alive by a weak detection.
            inside = coverage(found.xyxy[weak], found.xyxy[strong])
            classes = np.array(names)
            inside[classes[weak, None] != classes[strong]] = 0
            starting = np.concatenate([strong, weak[inside.max(axis=1, initial=0) <= _PART_COVERAGE]])
        left_over = [int(r) for r in starting if r not in taken]
        shown = [r for r in taken if confidences[r] >= self._track.tentative_conf]
        self._bear(frame, found, names, evidence, self._once(found, names, left_over, shown))
        self._remove_duplicates(matched)

    def _once(self, found: sv.Detections, names: list[str], rows: list[int], shown: list[int]) -> list[int]:
        """These rows of detections but parts, and what shows once more, as of another class, what a surer one shows.

        A detector that is unsure of a vehicle's class says both; of 62 such pairs in scenes none were two objects. But
        people are on what they ride. `shown`: rows of detections that show what is known.
        """
        if not rows:
            return rows
        assert found.confidence is not None
        overlap = iou_matrix(found.xyxy, found.xyxy)
        kept = list(shown)
        for row in sorted(rows, key=found.confidence.__getitem__, reverse=True):
            if not self._is_part(found.xyxy[row], names[row]) and not any(
                overlap[row, other] > self._track.duplicate_iou and _confused(names[row], names[other])
                for other in kept
            ):
                kept.append(row)
        return [row for row in rows if row in kept]

    def _confirm(self, frame: Frame, found: sv.Detections, names: list[str], matched: Mapping[int, int]) -> None:
        """Take matched detections in, and reset the masks that disagree with them."""
        assert found.confidence is not None or not matched
        segments = {i: self._live[i].segment for i in matched}
        reset = {}
        for target_id, row in matched.items():
            box = found.xyxy[row]
            segment = segments[target_id]
            agreement = self._trust.agreement(segment, box)
            if segment is not None and agreement >= _ARRIVED_IOU and self._segmenter.starts_from_boxes:
                self._live[target_id].arrived(frame, box, segment, self._trust.carried_sigma)
            if agreement < self._track.correct_iou or self._segmenter.starts_from_boxes:
                reset[target_id] = box
        if reset:
            # What an object looked like before is kept for weights that make something of it.
            self._segmenter.drop([i for i in reset if segments[i] is None])
            fresh = self._segmenter.prompt(reset)
            clipped = {i: within_prompt(segment, reset[i]) for i, segment in fresh.items()}
            segments |= {i: s if s.mask is not None else None for i, s in clipped.items()}
            self.counters["corrected"] += len(reset)
        for target_id, row in matched.items():
            target = self._live[target_id]
            for flown in self._cues.between(target_id, row):
                target.flown(*flown)
            confidence = float(found.confidence[row])
            sigma = detection_sigma(confidence)
            target.detected(frame, found.xyxy[row], confidence, names[row], sigma, segments[target_id])
        for target in (self._live[target_id] for target_id in matched):
            if not target.confirmed and (target.convincing(self._track) or self._has_moved(target)):
                target.confirmed = True
                self.counters["confirmed"] += 1

    @property
    def _there(self) -> list[Target]:
        """Objects in view: what was detected here is here, whether or not there is a mask of it."""
        return [t for t in self._live.values() if t.visible or t.unmatched == 0]

    def _has_moved(self, target: Target) -> bool:
        """Whether an object was seen to leave its place: poles and posts that a detector takes for one stay.

        What lies on another object moves with it: a part, or the same once more as of another class.
        """
        often = target.hits >= _MOVING_HITS and target.mean_confidence >= self._track.tentative_conf
        if not often or self._cues.travelled(target) < _MOVING_SIZES:
            return False
        others = [t for t in self._there if t.confirmed or t.mean_confidence > target.mean_confidence]
        return not _covered(target.box_xyxy, [t for t in others if t is not target])

    def _bear(self, frame: Frame, found: sv.Detections, names: list[str], evidence: Evidence, rows: list[int]) -> None:
        """Start an object from each detection that is nobody's, and find where it came from."""
        born = {}
        for row in rows:
            born[self._next_id] = row
            self._next_id += 1
        if not born:
            return
        segments = self._segmenter.prompt({i: found.xyxy[row] for i, row in born.items()})
        for target_id, row in list(born.items()):
            assert found.confidence is not None
            segment, confidence = within_prompt(segments[target_id], found.xyxy[row]), float(found.confidence[row])
            if confidence < self._track.prompt_conf and self._is_seen_already(found.xyxy[row], segment, names[row]):
                self._segmenter.drop([target_id])
                del born[target_id]
                self.counters["duplicates"] += 1
                continue
            sigma = detection_sigma(confidence)
            looks = Looks(evidence.looks[row], clear=bool(evidence.clear[row]), whole=bool(evidence.whole[row]))
            target = Target(target_id, frame, found.xyxy[row], confidence, names[row], sigma, looks)
            target.confirmed = confidence >= self._track.prompt_conf or target.convincing(self._track)
            target.detected(
                frame, found.xyxy[row], confidence, names[row], sigma, segment if segment.mask is not None else None
            )
            self._live[target_id] = target
        self.counters["born"] += len(born)
        if self._trust.holds:
            entered = {i: self._live[i] for i in born if self._live[i].visible}
            carry_back(entered, self._recent, self._segmenter, self._trust, self._track, self._gate)
        else:
            for target_id, row in born.items():
                for flown in self._cues.arrival(row, evidence.looks[row], self._recent):
                    self._live[target_id].flown(*flown)
            mask_back({i: self._live[i] for i in born}, self._recent, self._segmenter, self._track)

    def _is_part(self, box_xyxy: FloatArray, class_name: str) -> bool:
        return _covered(box_xyxy, [t for t in self._there if t.class_name == class_name])

    def _is_seen_already(self, box_xyxy: FloatArray, segment: Segment, class_name: str) -> bool:
        """Whether what a detection shows is (a part of) an object of this class that was detected here as well."""
        mask = segment.mask
        for other in self._live.values():
            known = other.segment.mask if other.segment else None
            if mask is None or known is None or other.class_name != class_name or other.unmatched:
                continue
            boxes = box_xyxy[None], other.box_xyxy[None]
            if max(coverage(*boxes).max(), coverage(*boxes[::-1]).max()) <= _SHARED:
                continue
            own, others = mask.full_size, known.full_size
            if own.common_px(others) > _SHARED * min(own.area_px, others.area_px):
                return True
        return False

    # -- ends

    def _remove_duplicates(self, matched: Mapping[int, int]) -> None:
        """Of two objects on one place the one without a detection of its own goes, else the younger."""
        targets = [t for t in self._live.values() if t.visible]
        if len(targets) < 2:
            return
        overlap = iou_matrix(*[np.stack([t.box_xyxy for t in targets])] * 2)
        for i, j in np.argwhere(np.triu(overlap, 1) > self._track.duplicate_iou):
            older, younger = targets[i], targets[j]
            if older.class_name != younger.class_name:
                continue
            rank = {t.target_id: (t.target_id in matched, t.hits, -t.target_id) for t in (older, younger)}
            loser = min((older, younger), key=lambda t: rank[t.target_id])
            if loser.target_id in self._live and loser.unmatched > 0:
                self.counters["duplicates"] += 1
                loser.is_double(self._track.min_hits)
                self._retire(loser)

    def _end(self, frame: Frame) -> None:
        height, width = frame.image_rgb.shape[:2]
        for target in list(self._live.values()):
            x1, y1, x2, y2 = target.box_xyxy
            # What only motion says has left may be seen at the frame's edge by the next look.
            out = not (0 <= (x1 + x2) / 2 <= width and 0 <= (y1 + y2) / 2 <= height)
            left = out and not target.visible and target.unmatched > 0
            lost = target.hidden_seconds(frame.pts_ns) > self._track.max_bridge_seconds
            ghost = target.is_ghost and target.undetected_seconds(frame.pts_ns) >= self._track.max_missed_seconds
            unconfirmed = not target.confirmed and target.unmatched >= self._track.min_hits
            if left or lost or ghost or unconfirmed:
                self._retire(target)

    def _retire(self, target: Target) -> None:
        """Take an object out and keep what it leaves."""
        del self._live[target.target_id]
        self._segmenter.drop([target.target_id])
        observations, tracklets = target.rows(self._chunk, self._settings, self._views)
        self._observations.append(pa.Table.from_pylist(observations, schema=OBSERVATIONS))
        self._tracklets.append(pa.Table.from_pylist(tracklets, schema=TRACKLETS))


def _confused(one: str, other: str) -> bool:
    """Whether a detector may say both classes of one object."""
    return one != other and "person" not in (one, other)


def _covered(box_xyxy: FloatArray, by: list[Target]) -> bool:
    """Whether a box, (4,) pixels, lies in one of these objects' as a part of it would."""
    return bool(by) and float(coverage(box_xyxy[None], np.stack([t.box_xyxy for t in by])).max()) > _PART_COVERAGE
