"""`make eval`: how good tracks are, on real footage with ground truth and on synthetic scenes, beside a golden file.

Every case goes through what a run's workers do, chunk by chunk, into a store of its own; only Ray is left out. Real
sequences lie in `shared/` beside the checkout and are skipped, and said so, where it is absent. Scenes are rendered
once into `eval-scenes/`.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHARED, SCENES = ROOT.parent / "shared", ROOT / "eval-scenes"
GOLDEN = Path(__file__).with_name("evaluation.json")
# Another processor rounds otherwise, and a mask or a match that lies at a threshold falls to its other side: a single
# one moves scores of the shortest sequence (71 frames) by this much.
TOLERANCE = 0.5
SCORES = ("HOTA", "DetA", "AssA", "IDF1", "MOTA", "J")
COUNTS = ("IDSW", "border_IDSW", "count_error", "visit_error", "crossing_error")
# What the project wants to reach.
GOALS = {
    "PETS09-S2L1 5th": {"HOTA": 66.0},
    "PETS09-S2L1 10th": {"HOTA": 60.4},
    "TUD-Campus 5th": {"HOTA": 62.0},
    "TUD-Campus 10th": {"HOTA": 55.0},
    "scenes": {"HOTA": 80.0, "IDF1": 95.0, "J": 85.0},
}


@dataclass(frozen=True)
class Case:
    """One video, the settings it is tracked with, and where its truth lies; of scenes, a seed instead."""

    name: str
    flags: dict[str, dict[str, Any]] = field(default_factory=dict)
    sequence: str | None = None
    seed: int | None = None


def cases(seeds: int) -> list[Case]:
    """All there is to evaluate, the longest first."""
    real = {
        "detector": str(SHARED / "models" / "yolo11n_int8_openvino_model"),
        "classes": ("person",),
    }
    listed = []
    for sequence, every, chunk_s in (
        ("PETS09-S2L1", 5, 10),
        ("PETS09-S2L1", 5, None),
        ("PETS09-S2L1", 10, 10),
        ("PETS09-S2L1", 10, None),
        ("TUD-Campus", 5, None),
        ("TUD-Campus", 10, None),
    ):
        name = f"{sequence} {every}th" + (f" in {chunk_s} s" if chunk_s else "")
        flags = {"detect": {**real, "detect_every": every}, "plan": {"chunk_seconds": chunk_s}}
        listed.append(Case(name, flags, sequence=sequence))
    for chunk_s in (None, 6):
        suffix = f" in {chunk_s} s" if chunk_s else ""
        listed += [Case(f"scene {s}{suffix}", {"plan": {"chunk_seconds": chunk_s}}, seed=s) for s in range(seeds)]
    return listed


def run_case(case: Case) -> dict[str, float]:
    """Track a case and score it."""
    import torch

    from flows.annotations import from_store, read_mot
    from flows.config import Settings
    from flows.console import video_id
    from flows.demo.run import START_TIME
    from flows.evaluate import evaluate
    from flows.finished import border_frames
    from flows.store import open_store

    torch.set_num_threads(1)
    scene = _rendered(case.seed) if case.seed is not None else None
    folder = scene or SHARED / "data" / "mot15" / str(case.sequence)
    truth_file = folder / ("truth.txt" if scene else "gt.txt")
    with tempfile.TemporaryDirectory() as scratch, open_store(scratch) as store:
        truth = json.loads((folder / "truth.json").read_text()) if scene else None
        _track(store, next(folder.glob("*.mp4")), Settings.load(flags=case.flags), START_TIME, truth)
        video = video_id(store, "eval")
        # Of real sequences every row counts, flagged or not: so do the baselines that the goals are made of, and who is
        # flagged is plainly visible.
        true = read_mot(truth_file, ground_truth=scene is not None, unscored=scene is not None)
        scores = evaluate(true, from_store(store, video))
        found = {
            "HOTA": scores.hota,
            "DetA": scores.det_a,
            "AssA": scores.ass_a,
            "IDF1": scores.idf1,
            "MOTA": scores.mota,
            "IDSW": scores.id_switches,
            "border_IDSW": sum(scores.switches_at(border_frames(store, video)).values()),
        }
        if truth is not None:
            found |= _scene_scores(store, folder, truth)
    return found


def _track(store: Any, video_file: Path, settings: Any, start_time: Any, truth: dict[str, Any] | None) -> None:
    """What a run does with one video, without Ray."""
    from flows.decode import plan_chunks
    from flows.demo.run import set_up_source
    from flows.events import recompute_events
    from flows.locate import commit_located
    from flows.probe import probe
    from flows.process import DetectChunk, TrackChunk
    from flows.stitch import stitch_source

    video = probe(str(video_file), "eval", start_time)
    chunks = plan_chunks(video, settings.plan, "eval")
    store.add_video(video)
    store.plan(chunks)
    if truth is not None:
        set_up_source(store, "eval", truth)
    detect, track = DetectChunk(settings, "cpu", threads=1), TrackChunk(settings, "cpu", threads=1)
    for chunk in chunks:
        result = track(detect(chunk))
        if result.error is not None:
            raise RuntimeError(f"{video_file.name}: {result.error}")
        commit_located(store, result, settings.georeference)
    stitch_source(store, "eval", settings.stitch)
    recompute_events(store, "eval", settings.events, settings.georeference)


def _scene_scores(store: Any, folder: Path, truth: dict[str, Any]) -> dict[str, float]:
    from flows.demo.run import scene_scores

    scores = scene_scores(store, "eval", folder, truth)
    events = store.query("select kind, zone from events").to_pylist()
    errors = {}
    for kind, true, zone in (("visit", truth["visits"], "zone"), ("crossing", truth["crossings"], "line")):
        found = Counter(event["zone"] for event in events if event["kind"] == kind)
        wanted = Counter(event[zone] for event in true)
        errors[f"{kind}_error"] = sum(abs(found[name] - wanted[name]) for name in found | wanted)
    return {"J": scores["J"], "count_error": scores["count_error"], **errors}


def _rendered(seed: int) -> Path:
    """A scene's folder, rendered if it is not there; `make clean` after a change of what renders it."""
    from flows.demo.scene import Scene
    from flows.demo.writer import write_scene

    folder = SCENES / str(seed)
    if not (folder / "masks.npz").exists():  # written last
        write_scene(Scene.random(seed), folder)
    return folder


def summed(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Cases as they are reported: sequences by themselves; of scenes mean scores, sums of switches, shares exact."""
    table = {name: scores for name, scores in found.items() if not name.startswith("scene ")}
    for suffix in ("", " in 6 s"):
        scenes = [s for name, s in found.items() if name.startswith("scene ") and name.endswith(" s") == bool(suffix)]
        if not scenes:
            continue
        mean = {name: sum(s[name] for s in scenes) / len(scenes) for name in SCORES}
        total = {name: sum(abs(s[name]) for s in scenes) for name in COUNTS}
        table[f"scenes{suffix}"] = mean | total
    return {name: {key: round(value, 2) for key, value in scores.items()} for name, scores in table.items()}


def fallen(golden: dict[str, dict[str, float]], table: dict[str, dict[str, float]]) -> list[str]:
    """What is worse than the golden file says, by more than the tolerance."""
    return [
        f"{case}: {name} {table[case][name]:.1f}, was {was:.1f}"
        for case, scores in golden.items()
        for name, was in scores.items()
        if case in table and name in ("HOTA", "IDF1", "J") and table[case][name] < was - TOLERANCE
    ]


def print_table(table: dict[str, dict[str, float]], golden: dict[str, dict[str, float]]) -> None:
    """Scores, each with what the golden file says and the goal."""
    names = [*SCORES, *COUNTS]
    print(" | ".join([f"{'':26}", *(f"{name:>14}" for name in names)]))
    for case, scores in table.items():
        cells = []
        for name in names:
            if name not in scores:
                cells.append(f"{'':14}")
                continue
            was, goal = golden.get(case, {}).get(name), GOALS.get(case, {}).get(name)
            form = "{:.1f}" if name in SCORES else "{:.0f}"
            said = [form.format(scores[name])]
            if was is not None and abs(was - scores[name]) > 0.05:
                said.append(f"was {form.format(was)}")
            if goal is not None:
                said.append(f"of {goal:.0f}")
            cells.append(f"{' '.join(said):>14}")
        print(" | ".join([f"{case:26}", *cells]))
    for cut in table:
        case = cut.partition(" in ")[0]
        if case != cut and case in table:
            lost = {name: table[case][name] - table[cut][name] for name in ("HOTA", "IDF1")}
            print(f"{cut}: {lost['HOTA']:.1f} HOTA and {lost['IDF1']:.1f} IDF1 less than in one pass")


def main(arguments: Sequence[str]) -> int:
    """Run, print, compare; 1 where a score fell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="scenes 0 to this")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--update", action="store_true", help="write the golden file anew")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args(arguments)
    todo = [case for case in cases(given.seeds) if given.only in case.name]
    if not SHARED.is_dir():
        print(f"skipped PETS09-S2L1 and TUD-Campus: no {SHARED.name}/ beside the checkout")
        todo = [case for case in todo if case.sequence is None]
    for seed in {case.seed for case in todo if case.seed is not None}:  # two cases share each, and run side by side
        _rendered(seed)
    found = {}
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(run_case, case): case.name for case in todo}
        for done in as_completed(running):
            found[running[done]] = done.result()
            print(f"{len(found)} of {len(todo)}: {running[done]}", file=sys.stderr)
    found = {case.name: found[case.name] for case in todo}
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    key = f"{given.seeds} scenes"
    table = summed(found)
    print_table(table, golden.get(key, {}))
    if given.update:
        golden[key] = {**golden.get(key, {}), **table}
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
        return 0
    unknown = [name for name in table if name not in golden.get(key, {})]
    if unknown:
        print(f"the golden file says nothing of {', '.join(unknown)}: --update adds them")
    worse = fallen(golden.get(key, {}), table)
    print("\n".join(worse) or "nothing fell below the golden file")
    return 1 if worse else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
