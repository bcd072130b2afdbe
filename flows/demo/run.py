"""The demonstration: a scene with known truth through the whole flow."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from flows.annotations import from_store, masks_from_store, read_mot
from flows.calibrate import fit_homography
from flows.config import Settings
from flows.console import err, out, print_table, video_id
from flows.demo.scene import Scene, demo_scene
from flows.demo.writer import MASKS_NAME, MOT_NAME, TRUTH_NAME, VIDEO_NAME, read_masks, write_scene
from flows.evaluate import evaluate, mask_j
from flows.mask import Mask
from flows.render import render_video
from flows.reports import REPORTS, run_report
from flows.store import Store, Zone, open_store

SOURCE = "demo"
START_TIME = datetime(2026, 1, 5, 8, tzinfo=UTC)
"""When the scene is said to have been filmed: a Monday morning."""


def run_demo(folder: Path, *, seed: int | None, store_url: str | None, score: bool, as_json: bool) -> None:
    """Render a scene, track it, report and draw it.

    Args:
        folder: Where scene, store and annotated video go.
        seed: Of another scene than the bundled one.
        store_url: Another store than a folder beside the scene.
        score: Compare with the scene's truth.
        as_json: Print one line of JSON with the scores and nothing else.
    """
    from flows.run import run_flow

    scene = demo_scene() if seed is None else Scene.random(seed)
    if not (folder / TRUTH_NAME).exists() or _seed_of(folder) != scene.seed:
        if not as_json:
            err.print(f"Rendering {scene.frame_count / scene.fps:.0f} s of a synthetic {scene.theme} scene ...")
        write_scene(scene, folder)
    url = store_url or str(folder / "store")
    source = f"{SOURCE}-{scene.seed}"
    truth = json.loads((folder / TRUTH_NAME).read_text())
    with open_store(url) as store:
        set_up_source(store, source, truth)
        settings = Settings.load(flags={"store": {"url": url}})
        run_flow([str(folder / VIDEO_NAME)], settings, source=source, start_time=START_TIME, quiet=as_json)
        scores = scene_scores(store, source, folder, truth) if score else {}
        if as_json:
            sys.stdout.write(json.dumps(scores) + "\n")
            return
        video = folder / "tracked.mp4"
        render_video(store, video_id(store, source), video)
        for name in ("counts", "zones", "lines"):
            print_table(run_report(store, name, source=source), REPORTS[name].title, "table")
    for key, value in scores.items():
        out.print(f"{key:12} {value:.2f}", highlight=False)
    out.print(f"annotated video: {video}\nstore:           {url}")
    out.print(f"dashboard:       sightflow dashboard --store {url}", highlight=False)


def _seed_of(folder: Path) -> int:
    return int(json.loads((folder / TRUTH_NAME).read_text())["seed"])


def set_up_source(store: Store, source: str, truth: dict[str, Any]) -> None:
    """What a user would draw and measure: zones, lines, and a calibration from control points."""
    places = [("zone", zone) for zone in truth["zones"]] + [("line", line) for line in truth["lines"]]
    store.write_zones(
        source,
        [Zone(p["name"], kind, tuple((float(x), float(y)) for x, y in p["points_px"])) for kind, p in places],
    )
    corners = np.array([[0.1, 0.5], [0.9, 0.5], [0.95, 0.95], [0.05, 0.95], [0.5, 0.7]])
    points_px = corners * [truth["width_px"], truth["height_px"]]
    homogeneous = np.column_stack([points_px, np.ones(len(points_px))]) @ np.array(truth["ground_from_image"]).T
    calibration = fit_homography(points_px, homogeneous[:, :2] / homogeneous[:, 2:])
    store.write_calibration(source, calibration.to_json())


def scene_scores(store: Store, source: str, folder: Path, truth: dict[str, Any]) -> dict[str, float]:
    """Scores of a scene's tracks in a store against its truth: in percent, switches and objects too many in numbers."""
    video = video_id(store, source)
    true = read_mot(folder / MOT_NAME, ground_truth=True, unscored=True)
    scores = evaluate(true, from_store(store, video))
    unscored = set(zip(true.frame[~true.scored].tolist(), true.track_id[~true.scored].tolist(), strict=True))
    counted = store.query("select count(*) as n from tracks where source_id = $source", {"source": source})
    return {
        "IDF1": scores.idf1,
        "HOTA": scores.hota,
        "DetA": scores.det_a,
        "AssA": scores.ass_a,
        "MOTA": scores.mota,
        "IDSW": scores.id_switches,
        "J": mask_j(_truth_masks(folder), masks_from_store(store, video), unscored),
        "count_error": counted["n"][0].as_py() - len(truth["objects"]),
    }


def _truth_masks(folder: Path) -> dict[int, dict[int, Mask]]:
    return {
        number: {int(i): Mask(0, 0, ids == i) for i in np.unique(ids) if i}
        for number, ids in enumerate(read_masks(folder / MASKS_NAME), start=1)
    }
