"""Small models for the endpoint's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.errors import ModelError
from flows.models import resolve

SHARED_DETECTOR = Path(__file__).resolve().parents[3] / "shared/models/yolo11n_int8_openvino_model"


def flow_config(folder: Path) -> Path:
    """A settings file with the smallest detector there is; skips where there is none."""
    detector = "nano"
    try:
        resolve(detector, "detector")
    except ModelError:
        if not SHARED_DETECTOR.exists():
            pytest.skip("neither the nano detector's weights nor ../shared/models are here")
        detector = str(SHARED_DETECTOR)
    path = folder / "flow.yaml"
    path.write_text(f"detect: {{detector: {detector}, detect_every: 5}}")
    return path
