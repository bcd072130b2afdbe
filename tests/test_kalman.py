import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.kalman import BoxKalman, gate_threshold, smooth
from flows.schema import NS

BOX = np.array([100, 50, 130, 130], dtype=np.float32)


def _moved(seconds: float, speed_px_s: float = 40.0) -> np.ndarray:
    return BOX + np.array([speed_px_s * seconds, 0] * 2, dtype=np.float32)


def _filtered(times_s: list[float], sigma: float = 0.03) -> BoxKalman:
    kalman = BoxKalman(_moved(times_s[0]), round(times_s[0] * NS), sigma)
    for time_s in times_s[1:]:
        kalman.predict(round(time_s * NS))
        kalman.update(_moved(time_s), sigma)
    return kalman


def test_learns_velocity_and_predicts_through_a_gap():
    kalman = _filtered([i / 10 for i in range(20)])
    assert kalman.velocity_px_s[0] == pytest.approx(40, rel=0.1)
    np.testing.assert_allclose(kalman.predict(round(2.9 * NS)), _moved(2.9), atol=4)


def test_the_same_motion_is_learned_at_every_frame_rate():
    """Noise is per second, so the spread after one second unseen does not depend on how it is cut into frames."""
    coarse, fine = (_filtered([i / 10 for i in range(11)]) for _ in range(2))
    coarse.predict(2 * NS)
    for step in range(1, 31):
        fine.predict(NS + step * NS // 30)
    assert fine.spread_px == pytest.approx(coarse.spread_px, rel=0.02)


def test_gate_grows_while_hidden():
    kalman = _filtered([i / 10 for i in range(11)])
    aside = _moved(1.1) + np.array([0, 25] * 2, dtype=np.float32)
    kalman.predict(round(1.1 * NS))
    soon = kalman.distance2(aside, 0.03)
    kalman.predict(round(2.5 * NS))
    later = kalman.distance2(_moved(2.5) + np.array([0, 25] * 2, dtype=np.float32), 0.03)
    assert later < gate_threshold(0.999) < soon


def test_time_must_run_forward():
    kalman = BoxKalman(BOX, NS, 0.03)
    with pytest.raises(ValueError, match="time runs forward"):
        kalman.predict(NS)


def test_smoothing_uses_both_sides():
    """A box that stops between two sightings: the forward filter overshoots, the smoother does not."""
    times_s = [i / 10 for i in range(31)]
    truth = [_moved(min(t, 1.5)) for t in times_s]
    measured = [box if t <= 1.0 or t >= 2.2 else None for t, box in zip(times_s, truth, strict=True)]
    boxes = smooth([round(t * NS) for t in times_s], measured, [0.03] * len(times_s))
    errors = np.abs(boxes - np.stack(truth)).max(axis=1)
    assert errors.max() < 12
    assert np.abs(_moved(2.1) - truth[21]).max() > 20


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(st.floats(0.01, 5), st.floats(-300, 300), st.floats(2, 400), st.booleans()), min_size=1, max_size=30
    )
)
def test_covariance_stays_positive_and_boxes_upright(steps):
    kalman = BoxKalman(BOX, 0, 0.05)
    now = 0
    for dt, shift, size, seen in steps:
        now += max(round(dt * NS), 1)
        kalman.predict(now)
        if seen:
            kalman.update(np.array([shift, shift, shift + size, shift + size], dtype=np.float32), 0.05)
        assert np.linalg.eigvalsh(kalman.covariance).min() > -1e-6
        x1, y1, x2, y2 = kalman.box_xyxy
        assert np.isfinite(kalman.box_xyxy).all()
        assert x2 > x1
        assert y2 > y1
