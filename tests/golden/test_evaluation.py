"""The evaluation itself, on the shortest sequence, and what its golden file must name."""

import json
from pathlib import Path

import pytest

from tests.golden.evaluation import GOLDEN, TOLERANCE, cases, fallen, run_case, summed


def test_the_golden_file_names_cases_there_are() -> None:
    known = {case.name for case in cases(3) if case.seed is None} | {"scenes", "scenes in 6 s"}
    assert set(json.loads(GOLDEN.read_text()).get("3 scenes", {})) <= known


def test_only_what_fell_further_than_the_tolerance_is_told() -> None:
    golden = {"a": {"HOTA": 60.0, "IDSW": 1}, "b": {"HOTA": 50.0}, "not run": {"HOTA": 90.0}}
    table = {"a": {"HOTA": 60.1 - TOLERANCE, "IDSW": 9}, "b": {"HOTA": 49.9 - TOLERANCE}}
    assert fallen(golden, table) == ["b: HOTA 49.4, was 50.0"]


def test_scenes_are_reported_together() -> None:
    scene = {"HOTA": 50.0, "DetA": 1.0, "AssA": 1.0, "IDF1": 1.0, "MOTA": 1.0, "J": 1.0}
    counts = {"IDSW": 1, "border_IDSW": 0, "count_error": -1, "visit_error": 0, "crossing_error": 2}
    found = {"scene 0": scene | counts, "scene 1": scene | counts | {"HOTA": 60.0}, "PETS": {"HOTA": 3.0}}
    table = summed(found)
    assert set(table) == {"scenes", "PETS"}
    assert (table["scenes"]["HOTA"], table["scenes"]["count_error"]) == (55, 2)


@pytest.mark.slow
def test_a_case_goes_through_the_flow(shared_dir: Path) -> None:
    (case,) = (case for case in cases(0) if case.name == "TUD-Campus 10th")
    scores = run_case(case)
    assert scores["HOTA"] > 40
    assert scores["border_IDSW"] == 0
