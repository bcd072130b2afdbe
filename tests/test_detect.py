import itertools
from types import SimpleNamespace

import pytest
from ultralytics.utils import nms

from flows.config import DetectSettings
from flows.demo.scene import Scene
from flows.detect import Detector


@pytest.fixture(scope="module")
def pictures():
    scene = Scene.random(3)
    return [scene.render(number)[0] for number in (0, 10, 20)]


def test_a_machine_that_stalls_loses_no_detections(pictures, monkeypatch):
    """ultralytics looks at the clock between the images of a batch; here each look is a minute later."""
    detector = Detector(DetectSettings(), "cpu")
    expected = [len(found) for found in detector(pictures)]
    assert min(expected) > 0
    minutes = itertools.count(step=60)
    monkeypatch.setattr(nms, "time", SimpleNamespace(time=lambda: next(minutes)))
    assert [len(found) for found in detector(pictures)] == expected
