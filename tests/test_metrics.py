"""What a chunk adds to the metrics, and that the dashboard draws metrics that exist."""

import json
import re
from pathlib import Path

import pyarrow as pa

from flows.metrics import METRICS, samples
from flows.schema import OBSERVATIONS, ChunkResult
from tests.stores import make_chunk, make_observation, make_result

GRAFANA = Path(__file__).parents[1] / "deploy" / "grafana.json"


def _numbers(result: ChunkResult) -> dict[tuple, float]:
    found = list(samples(result))
    for sample in found:
        assert sample.metric in METRICS
        assert set(sample.tags) == set(sample.metric.tags)
    return {(sample.metric.name.removeprefix("sightflow_"), *sample.tags.values()): sample.value for sample in found}


def test_a_done_chunk_adds_what_it_holds():
    chunk = make_chunk()
    rows = [make_observation(chunk, second, state=state) for second, state in enumerate(["detected", "bridged"] * 3)]
    counters = {"frames": 300, "detections": 12, "tracklets": 2, "corrupt_packets": 1}
    seconds = {"detect": 1.0, "decode": 2.0, "segment": 3.0, "track": 4.0, "wait": 5.0, "commit": 6.0}
    result = make_result(chunk)
    table = pa.Table.from_pylist(rows, OBSERVATIONS)
    numbers = _numbers(ChunkResult(chunk, table, result.tracklets, counters, seconds))
    assert numbers == {
        ("chunks", "done"): 1,
        ("frames",): 300,
        ("detections",): 12,
        ("objects",): 2,
        ("damaged_packets",): 1,
        ("observations", "detected"): 3,
        ("observations", "bridged"): 3,
        ("step_seconds", "decode"): 2.0,
        ("step_seconds", "detect"): 1.0,
        ("step_seconds", "segment"): 3.0,
        ("step_seconds", "commit"): 6.0,
        ("wait_seconds",): 5.0,
    }


def test_a_failed_chunk_adds_its_kind():
    numbers = _numbers(ChunkResult.failed(make_chunk(), "gone", error_kind="VideoError"))
    assert numbers[("failures", "VideoError")] == 1
    assert numbers[("chunks", "failed")] == 1
    assert ("chunks", "done") not in numbers


def test_the_dashboard_draws_what_there_is_and_all_of_it():
    """Ray puts `ray_` before a name; counters end in `_total`, histograms in `_bucket`, `_sum`, `_count`."""
    board = json.loads(GRAFANA.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    drawn = set(re.findall(r"ray_(sightflow_\w+?)(?:_total|_bucket|_sum|_count)\b", " ".join(queries)))
    assert drawn == {metric.name for metric in METRICS}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
