"""The nano detector: its labels, the file it ships in, and that it sees the demo's objects."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from flows.demo.measure_detector import measure
from flows.demo.scene import CLASS_NAMES, DEMO_SEED, ObjectTruth
from flows.demo.train_detector import ARCHITECTURE, _label, export_weights, train_detector

WEIGHTS = ARCHITECTURE.parent / "weights" / "nano_detector.pt"


def _make_object(box_xyxy: list[float], visibility: float = 1.0, class_index: int = 1) -> ObjectTruth:
    box = np.array(box_xyxy, float)
    return ObjectTruth(1, class_index, box, box, visibility, np.zeros(2))


def test_label_is_relative_to_the_crop() -> None:
    assert _label([_make_object([100, 50, 200, 100])], 50, (200, 400, 3)) == "1 0.250000 0.375000 0.250000 0.250000\n"


def test_label_is_cut_at_the_edge_of_the_crop() -> None:
    assert _label([_make_object([0, 0, 100, 100])], 50, (200, 400, 3)) == "1 0.062500 0.250000 0.125000 0.500000\n"


@pytest.mark.parametrize(
    "item",
    [
        _make_object([0, 0, 40, 100]),  # left of the crop
        _make_object([100, 50, 103, 58]),  # too small
        _make_object([100, 50, 112, 62], visibility=0.2),  # small and mostly hidden
    ],
)
def test_what_cannot_be_seen_gets_no_label(item: ObjectTruth) -> None:
    assert _label([item], 50, (200, 400, 3)) == ""


def test_large_part_of_a_hidden_object_gets_a_label() -> None:
    assert _label([_make_object([100, 50, 160, 100], visibility=0.2)], 50, (200, 400, 3)) != ""


def test_nothing_to_resume_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train_detector(tmp_path, resume=True)


def test_exported_file_holds_names_and_no_path(tmp_path: Path) -> None:
    os.environ.setdefault("YOLO_OFFLINE", "true")
    torch = pytest.importorskip("torch")
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    model = tasks.DetectionModel(str(ARCHITECTURE), verbose=False)
    checkpoint, shipped = tmp_path / "last.pt", tmp_path / "shipped.pt"
    torch.save({"model": model, "ema": None, "train_args": {"project": str(tmp_path)}}, checkpoint)
    export_weights(checkpoint, shipped)
    content = shipped.read_bytes()
    assert str(tmp_path).encode() not in content
    assert str(ARCHITECTURE.parent).encode() not in content
    assert len(content) < 3e6
    yolo = pytest.importorskip("ultralytics").YOLO(str(shipped))
    assert tuple(yolo.names.values()) == CLASS_NAMES


def test_shipped_detector_sees_the_objects_of_the_demo() -> None:
    os.environ.setdefault("YOLO_OFFLINE", "true")
    yolo = pytest.importorskip("ultralytics").YOLO(str(WEIGHTS))
    assert tuple(yolo.names.values()) == CLASS_NAMES
    score = measure(yolo, [DEMO_SEED])[-1]
    # A floor well below what the model card reports: one scene has few objects.
    assert score.recall > 0.7
    assert score.precision > 0.7
