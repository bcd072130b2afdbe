"""How exactly pixels become places: there and back, on real ground truth, and from a drone's telemetry.

Run by `make bench`. These are errors, not times; what each stands beside is in the same row.
"""

from pathlib import Path

import numpy as np
import pytest

from flows.calibrate import fit_homography
from flows.demo.camera import Camera
from flows.flight import PoseNoise
from flows.georeference import Lens, ground_positions, to_pixels
from tests.benchmarks.record import record
from tests.flights import coverage

PETS09 = Path(__file__).parents[3] / "shared/data/mot15/PETS09-S2L1/gt.txt"
CAMERAS = 2_000
WIDTH_PX, HEIGHT_PX = 1920, 1080


def bench_pixel_to_ground_to_pixel() -> None:
    """Random cameras over a plane, half of them with a lens; pixels from the picture's bottom to near the horizon."""
    random = np.random.default_rng(0)
    errors = {"straight": [0.0], "lens": [0.0]}
    points = 0
    for number in range(CAMERAS):
        camera = Camera(
            width_px=WIDTH_PX,
            height_px=HEIGHT_PX,
            focal_px=random.uniform(700, 4000),
            height_m=random.uniform(2.5, 80),
            tilt_rad=random.uniform(0.1, 1.5),
        )
        lens = Lens.of_picture(random.uniform(-0.3, 0.3), WIDTH_PX, HEIGHT_PX) if number % 2 else None
        top_px = max(camera.horizon_px + 40, 0)
        corners_px = np.array([[0, top_px], [WIDTH_PX, top_px], [WIDTH_PX, HEIGHT_PX], [0, HEIGHT_PX]], dtype=float)
        corners_m = camera.to_ground(corners_px)
        control_px = lens.bend(corners_px) if lens else corners_px
        if not np.isfinite(control_px).all():
            continue
        calibration = fit_homography(control_px, corners_m, lens=lens)
        points_px = random.uniform([0, top_px], [WIDTH_PX, HEIGHT_PX], (100, 2))
        xy_m, _ = ground_positions(calibration, points_px, 1.0)
        known = np.isfinite(xy_m).all(axis=1)
        back_px = to_pixels(calibration, xy_m[known])
        errors["lens" if lens else "straight"].append(float(np.abs(back_px - points_px[known]).max(initial=0)))
        points += int(known.sum())
    figures = {f"{name}_worst_px": max(values) for name, values in errors.items()}
    record("ground", "round_trip", {"cameras": CAMERAS, "points": points, "goal_px": 1e-6, **figures})


@pytest.mark.skipif(not PETS09.exists(), reason=f"{PETS09} is absent")
def bench_pets09_true_boxes() -> None:
    """Fitted on every second person, tested on the others; beside it the box's middle instead of its bottom."""
    truth = np.loadtxt(PETS09, delimiter=",")
    fitted = np.isin(truth[:, 1], np.unique(truth[:, 1])[::2])
    figures = {}
    for name, share in (("bottom", 1.0), ("middle", 0.5)):
        points_px = np.stack([truth[:, 2] + truth[:, 4] / 2, truth[:, 3] + share * truth[:, 5]], axis=1)
        feet_px = np.stack([points_px[:, 0], truth[:, 3] + truth[:, 5]], axis=1)
        calibration = fit_homography(feet_px[fitted], truth[fitted, 7:9])
        found_m, _ = ground_positions(calibration, points_px[~fitted], 1.0)
        error_m = np.linalg.norm(found_m - truth[~fitted, 7:9], axis=1)
        error_m = error_m[np.isfinite(error_m)]
        figures |= {f"{name}_median_m": float(np.median(error_m)), f"{name}_p95_m": float(np.percentile(error_m, 95))}
    record("ground", "pets09_true_boxes", {"boxes": int((~fitted).sum()), **figures})


def bench_flight_bounds() -> None:
    """Share of positions inside their own 95 % bound, at 60 m with the errors that the settings state."""
    figures = {}
    for name, noise in (("gps", PoseNoise()), ("rtk", PoseNoise(position_m=0.05))):
        for pitch_deg in (-90.0, -60.0, -45.0):
            inside, error_m, bound_m = coverage(noise, 5_000, pitch_deg=pitch_deg)
            figures[f"{name} {-pitch_deg:.0f} deg down"] = {
                "inside": round(inside, 4),
                "error_median_m": round(error_m, 2),
                "bound_median_m": round(bound_m, 2),
            }
    record("ground", "flight", figures)
