"""How good are tracks against ground truth: HOTA, DetA, AssA, IDF1, MOTA, identity switches, fragmentations, mask J.

Sources of the definitions:

- HOTA, DetA, AssA: Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking", IJCV 2021.
- IDF1: Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", 2016.
- MOTA, identity switches, fragmentations: Bernardin and Stiefelhagen, "Evaluating Multiple Object Tracking
  Performance: The CLEAR MOT Metrics", 2008, with the matching of the MOT challenge: IoU 0.5, matches of the frame
  before are kept.
- Mask J: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", 2016.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from flows.annotations import Annotations, IntArray, Masks
from flows.associate import iou_matrix
from flows.errors import UsageError
from flows.mask import Mask
from flows.schema import BoolArray

RealArray = npt.NDArray[np.float64]

ALPHAS = np.arange(0.05, 0.99, 0.05)
MATCH_IOU = 0.5
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Scores:
    """Scores in percent, counts as they are.

    `switch_frames` are the frames at which a true object changed its track, one entry per switch, paired with the
    frame of its match before in `switch_from_frames`.
    """

    hota: float
    det_a: float
    ass_a: float
    idf1: float
    mota: float
    recall: float
    precision: float
    id_switches: int
    fragmentations: int
    n_truth_ids: int
    n_result_ids: int
    switch_from_frames: tuple[int, ...] = ()
    switch_frames: tuple[int, ...] = ()

    def switches_at(self, border_frames: Sequence[int]) -> dict[int, int]:
        """Identity switches that happened across each border, given as the first frame behind it."""
        pairs = list(zip(self.switch_from_frames, self.switch_frames, strict=True))
        return {border: sum(before < border <= after for before, after in pairs) for border in border_frames}


def evaluate(truth: Annotations, result: Annotations) -> Scores:
    """Score a result against ground truth, over every frame either of them names.

    Where the truth asks for nothing (`Annotations.scored`), neither a miss nor a find counts: boxes of the result
    that match such rows are left out first, as the MOT challenge does with its distractors (TrackEval,
    `mot_challenge_2d_box.py`, `get_preprocessed_seq_data`).

    Raises:
        UsageError: The truth holds no boxes to score, so that no score is defined.
    """
    if not truth.scored.any():
        raise UsageError("the ground truth holds no boxes to score: expected at least one")
    result = result.where(~_unasked(truth, result))
    truth = truth.where(truth.scored)
    paired = _Paired.of(truth, result)
    hota, det_a, ass_a = _hota(paired)
    clear = _clear(paired)
    n_truth, n_result = len(truth), len(result)
    errors = (n_truth - clear.matches) + (n_result - clear.matches) + len(clear.switch_frames)
    return Scores(
        hota=100 * hota,
        det_a=100 * det_a,
        ass_a=100 * ass_a,
        idf1=100 * _idf1(paired),
        mota=100 * (1 - errors / n_truth),
        recall=100 * clear.matches / n_truth,
        precision=100 * clear.matches / max(n_result, 1),
        id_switches=len(clear.switch_frames),
        fragmentations=clear.fragmentations,
        n_truth_ids=len(paired.truth_counts),
        n_result_ids=len(paired.result_counts),
        switch_from_frames=tuple(clear.switch_from_frames),
        switch_frames=tuple(clear.switch_frames),
    )


def _unasked(truth: Annotations, result: Annotations) -> BoolArray:
    """Which boxes of a result, (n,), match rows of the truth that are not to be scored."""
    unasked = np.zeros(len(result), dtype=bool)
    for number in np.unique(truth.frame[~truth.scored]):
        t = slice(*np.searchsorted(truth.frame, [number, number + 1]))
        r = slice(*np.searchsorted(result.frame, [number, number + 1]))
        iou = iou_matrix(truth.box_xyxy[t], result.box_xyxy[r])
        rows, columns = linear_sum_assignment(np.where(iou >= MATCH_IOU - EPS, iou, 0), maximize=True)
        matched = iou[rows, columns] >= MATCH_IOU - EPS
        unasked[r][columns[matched]] = ~truth.scored[t][rows[matched]]
    return unasked


@dataclass(frozen=True)
class _Frame:
    """Who is in a frame, as indices into the sorted ids of either side, and their IoU (truth, result)."""

    number: int
    truth: IntArray
    result: IntArray
    iou: RealArray


@dataclass(frozen=True)
class _Paired:
    frames: list[_Frame]
    truth_counts: RealArray
    result_counts: RealArray

    @classmethod
    def of(cls, truth: Annotations, result: Annotations) -> _Paired:
        truth_index, truth_counts = _dense(truth.track_id)
        result_index, result_counts = _dense(result.track_id)
        frames = []
        for number in np.union1d(truth.frame, result.frame):
            t = slice(*np.searchsorted(truth.frame, [number, number + 1]))
            r = slice(*np.searchsorted(result.frame, [number, number + 1]))
            iou = iou_matrix(truth.box_xyxy[t], result.box_xyxy[r])
            frames.append(_Frame(int(number), truth_index[t], result_index[r], iou))
        return cls(frames, truth_counts, result_counts)


def _dense(ids: IntArray) -> tuple[IntArray, RealArray]:
    _, index, counts = np.unique(ids, return_inverse=True, return_counts=True)
    return index, counts.astype(np.float64)


def _hota(paired: _Paired) -> tuple[float, float, float]:
    """HOTA, DetA and AssA, each averaged over `ALPHAS`."""
    truth_counts, result_counts = paired.truth_counts[:, None], paired.result_counts[None, :]
    potential = np.zeros((truth_counts.size, result_counts.size))
    for frame in paired.frames:
        rivals = frame.iou.sum(0)[None, :] + frame.iou.sum(1)[:, None] - frame.iou
        potential[np.ix_(frame.truth, frame.result)] += np.divide(
            frame.iou, rivals, out=np.zeros_like(frame.iou), where=rivals > EPS
        )
    alignment = potential / (truth_counts + result_counts - potential)

    # Matches by threshold and by pair of identities; one assignment a frame serves all thresholds.
    matches = np.zeros((len(ALPHAS), *potential.shape))
    for frame in paired.frames:
        rows, columns = linear_sum_assignment(alignment[np.ix_(frame.truth, frame.result)] * frame.iou, maximize=True)
        overlaps = frame.iou[rows, columns]
        matches[:, frame.truth[rows], frame.result[columns]] += overlaps >= ALPHAS[:, None] - EPS

    tp = matches.sum(axis=(1, 2))
    det_a = tp / (truth_counts.sum() + result_counts.sum() - tp)
    accuracy = matches / (truth_counts + result_counts - matches)
    ass_a = (matches * accuracy).sum(axis=(1, 2)) / np.maximum(tp, 1)
    return float(np.sqrt(det_a * ass_a).mean()), float(det_a.mean()), float(ass_a.mean())


def _idf1(paired: _Paired) -> float:
    """2 IDTP / (truth + result): IDTP of the one assignment of identities that makes it largest."""
    together = np.zeros((paired.truth_counts.size, paired.result_counts.size))
    for frame in paired.frames:
        together[np.ix_(frame.truth, frame.result)] += frame.iou >= MATCH_IOU
    rows, columns = linear_sum_assignment(together, maximize=True)
    return float(2 * together[rows, columns].sum() / (paired.truth_counts.sum() + paired.result_counts.sum()))


@dataclass
class _Clear:
    matches: int
    fragmentations: int
    switch_from_frames: list[int]
    switch_frames: list[int]


def _clear(paired: _Paired) -> _Clear:
    """CLEAR-MOT: walk through the frames, keeping the matches of the frame before where they still hold."""
    n = paired.truth_counts.size
    last_id, last_frame = np.full(n, -1), np.zeros(n, dtype=np.int64)
    previous_id = np.full(n, -1)  # as of the frame before; -1: not matched there
    starts = np.zeros(n, dtype=np.int64)
    clear = _Clear(0, 0, [], [])
    for frame in paired.frames:
        if not frame.iou.size:
            continue  # as in the MOT challenge, a frame without truth or without result does not end a match
        kept = previous_id[frame.truth][:, None] == frame.result[None, :]
        # 1000 outweighs any sum of overlaps: a match that continues goes before one that fits better.
        score = np.where(frame.iou >= MATCH_IOU - EPS, frame.iou + 1000 * kept, 0)
        rows, columns = linear_sum_assignment(score, maximize=True)
        matched = score[rows, columns] > 0
        who, by = frame.truth[rows[matched]], frame.result[columns[matched]]

        switched = (last_id[who] >= 0) & (last_id[who] != by)
        clear.switch_from_frames += last_frame[who[switched]].tolist()
        clear.switch_frames += [frame.number] * int(switched.sum())
        starts[who] += previous_id[who] < 0
        clear.matches += len(who)
        previous_id[:] = -1
        previous_id[who] = last_id[who] = by
        last_frame[who] = frame.number
    clear.fragmentations = int(np.maximum(starts - 1, 0).sum())
    return clear


def mask_iou(a: Mask, b: Mask) -> float:
    """IoU of two masks given as crops; two empty masks have 0."""
    common = a.common_px(b)
    union = a.area_px + b.area_px - common
    return common / union if union else 0.0


def mask_j(truth: Masks, result: Masks, unscored: Collection[tuple[int, int]] = ()) -> float:
    """Mean region similarity J in percent.

    Every true object is given the one track that serves it best over the whole video. Its J is the mean IoU over all
    frames in which either of the two has a mask, so a mask that is missing and one that should not be there both
    count as 0. The score is the mean over objects.

    Args:
        truth, result: Masks by frame and identity.
        unscored: Frames and true identities that count neither way.

    Raises:
        UsageError: The truth holds no masks.
    """
    truth = {f: {i: mask for i, mask in by_id.items() if (f, i) not in unscored} for f, by_id in truth.items()}
    truth_counts, result_counts = _lifetimes(truth), _lifetimes(result)
    if not truth_counts:
        raise UsageError("the ground truth holds no masks: expected at least one to score against")
    truth_index = {track_id: i for i, track_id in enumerate(truth_counts)}
    result_index = {track_id: i for i, track_id in enumerate(result_counts)}
    overlap, common = np.zeros((2, len(truth_index), len(result_index)))
    for number, masks in truth.items():
        for track_id, mask in masks.items():
            for other_id, other in result.get(number, {}).items():
                at = truth_index[track_id], result_index[other_id]
                overlap[at] += mask_iou(mask, other)
                common[at] += 1
    # What the result shows of an object where it is not scored is neither right nor wrong.
    for number, track_id in unscored:
        if track_id in truth_index:
            for other_id in result.get(number, {}):
                common[truth_index[track_id], result_index[other_id]] += 1
    either = np.array(list(truth_counts.values()))[:, None] + np.array(list(result_counts.values()))[None, :] - common
    j = overlap / either
    rows, columns = linear_sum_assignment(j, maximize=True)
    return float(100 * j[rows, columns].sum() / len(truth_index))


def _lifetimes(masks: Masks) -> dict[int, float]:
    counts: dict[int, float] = {}
    for by_id in masks.values():
        for track_id in by_id:
            counts[track_id] = counts.get(track_id, 0) + 1
    return counts
