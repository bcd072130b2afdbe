"""What the plan shows besides the paths."""

import numpy as np
import pandas as pd
import pytest

import dashboard
from dashboard import geography
from dashboard.data import forget
from flows.store import open_store
from tests.dashboard.filled import fill


@pytest.mark.parametrize(
    ("extent_m", "said"), [(3.0, "0.5 m"), (40.0, "10 m"), (100.0, "20 m"), (9000.0, "2 km"), (0.0, "0.2 m")]
)
def test_the_bar_is_of_a_round_length_that_fits(extent_m, said):
    bar, length = geography.scale_bar(pd.DataFrame({"x": [5.0, 5.0 + extent_m], "y": [1.0, 1.0]}), "m")
    assert length == said
    (x1, y1), (x2, y2) = bar["path"]
    number, unit = said.split()
    assert x2 - x1 == pytest.approx(float(number) * (1000 if unit == "km" else 1))
    assert (y1, y2) == (pytest.approx(1.0 - 0.06 * max(extent_m, 1.0)),) * 2


def test_in_degrees_the_bar_is_as_long_as_on_the_ground():
    paths = pd.DataFrame({"x": [13.0, 13.001], "y": [60.0, 60.0]})
    bar, length = geography.scale_bar(paths, "lonlat")
    (x1, _), (x2, _) = bar["path"]
    # At 60 degrees north a degree of longitude is half as long.
    assert length == "10 m"
    assert (x2 - x1) * geography.METRES_PER_DEGREE / 2 == pytest.approx(10)


def test_zones_drawn_on_the_picture_lie_on_the_ground_as_far_as_it_goes(monkeypatch, tmp_path):
    forget()
    monkeypatch.setenv(dashboard.STORE_VARIABLE, str(tmp_path))
    with open_store(str(tmp_path)) as store:
        fill(store)
        known = store.zones("gate")
        (sky,) = [type(known[0])("sky", "line", ((0.0, 10.0), (600.0, -400.0)))]
        store.write_zones("gate", [*known, sky])
    found = {zone["label"]: np.array(zone["path"]) for zone in geography.zones("gate", "m")}
    assert set(found) == {"entrance", "kerb"}
    # Of the filled store's calibration: the picture's lower edge is 10 m wide and 8 m away, pixel row 100 is 40 m away.
    assert found["kerb"][0][1] == pytest.approx(40)
    assert found["kerb"][1] == pytest.approx([-0.3125, 8], abs=0.01)
