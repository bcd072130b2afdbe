"""Reports, tracks and cuts from a store as runs leave it."""

import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fastapi.testclient import TestClient

from flows.georeference import Calibration
from flows.privacy import hide_classes
from flows.probe import probe
from flows.store import open_store
from serve.api import make_api
from serve.settings import ServeSettings
from tests.dashboard.filled import fill
from tests.tracked import make_store, sighting
from tests.videos import write_video


def _make_client(folder: Path) -> TestClient:
    async def nothing(clip: object) -> Any:
        yield {"event": "done"}

    settings = ServeSettings(store=str(folder / "store"), uploads=folder)
    return TestClient(make_api(nothing, settings), base_url="http://127.0.0.1")


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    """On a filled store."""
    with open_store(str(tmp_path / "store")) as store:
        fill(store)
    return _make_client(tmp_path)


def _problem(response: Any, status: int) -> str:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    return response.json()["detail"]


def test_reports_come_from_the_store(client):
    assert client.get("/readyz").json() == {"status": "ok"}
    rows = client.get("/v1/reports/counts", params={"source": "gate"}).json()["rows"]
    assert {row["class_name"]: row["tracks"] for row in rows} == {"person": 3, "vehicle": 1}
    assert client.get("/v1/reports/heatmap", params={"cell": 80}).json()["rows"]
    assert "there are counts" in _problem(client.get("/v1/reports/none"), 404)
    assert "no source" in _problem(client.get("/v1/reports/counts", params={"source": "roof"}), 422)
    assert "no parameter 'cell'" in _problem(client.get("/v1/reports/counts", params={"cell": 80}), 422)


def test_tracks_come_in_pages(client):
    page = client.get("/v1/tracks", params={"class": "person", "limit": 4}).json()
    assert (len(page["tracks"]), page["next_offset"]) == (4, 4)
    assert datetime.fromisoformat(page["tracks"][0]["t0"]) == datetime(2026, 3, 1, 8, tzinfo=UTC)
    rest = client.get("/v1/tracks", params={"class": "person", "limit": 4, "offset": 4}).json()
    assert (len(rest["tracks"]), rest["next_offset"]) == (2, None)
    assert not {t["track_id"] for t in page["tracks"]} & {t["track_id"] for t in rest["tracks"]}
    assert "limit" in _problem(client.get("/v1/tracks", params={"limit": 0}), 422)
    assert "lmit" in _problem(client.get("/v1/tracks", params={"lmit": 1}), 422)


def test_tracks_of_a_zone(client):
    of_zone = client.get("/v1/tracks", params={"zone": "entrance"}).json()["tracks"]
    assert 0 < len(of_zone) < len(client.get("/v1/tracks").json()["tracks"])
    assert "no zone" in _problem(client.get("/v1/tracks", params={"zone": "cellar"}), 422)


def test_one_track_with_its_path(client):
    (first, *_) = client.get("/v1/tracks", params={"source": "gate"}).json()["tracks"]
    track = client.get(f"/v1/tracks/{first['track_id']}").json()
    assert {name: track[name] for name in first} == first
    times = [point["ts"] for point in track["path"]]
    assert len(times) == 13
    assert times == sorted(times)
    assert "no track" in _problem(client.get("/v1/tracks/none"), 404)


def test_a_track_on_the_map_where_its_place_is_known(client, tmp_path):
    (track, *_) = client.get("/v1/tracks", params={"source": "gate"}).json()["tracks"]
    path, geojson = f"/v1/tracks/{track['track_id']}", {"Accept": "application/geo+json"}
    assert "where on earth" in _problem(client.get(path, headers=geojson), 406)
    with open_store(str(tmp_path / "store")) as store:
        calibration = Calibration.from_json(store.calibration("gate") or "")
        store.write_calibration("gate", replace(calibration, origin_lonlat=(8.5, 47.4)).to_json())
    answer = client.get(path, headers=geojson)
    assert answer.headers["content-type"] == "application/geo+json"
    feature = answer.json()
    assert (feature["type"], feature["geometry"]["type"]) == ("Feature", "LineString")
    assert len(feature["properties"]["times"]) == len(feature["geometry"]["coordinates"])
    for lon, lat in feature["geometry"]["coordinates"]:
        assert abs(lon - 8.5) + abs(lat - 47.4) < 0.01


def _make_archived(folder: Path, uri: str | None = None) -> tuple[str, str]:
    """A stored video of 30 frames with one track; the ids of both."""
    video = probe(str(write_video(folder / "v.mp4", size=(160, 120))), start_time=datetime(2026, 5, 1, tzinfo=UTC))
    rows = [sighting(video, "walker", i, (20 + 4 * i, 30, 50 + 4 * i, 100)) for i in range(5, 20)]
    store = make_store(folder / "store", video, rows)
    if uri:
        store.add_video(replace(video, uri=uri))
    (track_id,) = store.query("select track_id from tracks")["track_id"].to_pylist()
    return video.video_id, track_id


@pytest.mark.slow
def test_a_cut_of_the_video_around_a_track(tmp_path):
    video_id, track_id = _make_archived(tmp_path)
    client = _make_client(tmp_path)
    answer = client.get(f"/v1/videos/{video_id}/clip", params={"track": track_id})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    with av.open(io.BytesIO(answer.content)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert len(list(container.decode(video=0))) == 30
    (tmp_path / "v.mp4").unlink()
    assert "put the file back" in _problem(client.get(f"/v1/videos/{video_id}/clip", params={"track": track_id}), 404)


def _details(client: TestClient, video_id: str, track_id: str, where: tuple[slice, slice]) -> float:
    """How much neighbouring pixels differ in a part of the cut's sixteenth frame."""
    answer = client.get(f"/v1/videos/{video_id}/clip", params={"track": track_id})
    with av.open(io.BytesIO(answer.content)) as container:
        image = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][15]
    return float(np.abs(np.diff(image[where].astype(int), axis=1)).mean())


@pytest.mark.slow
def test_what_the_store_hides_is_hidden_on_cuts(tmp_path):
    video_id, track_id = _make_archived(tmp_path)
    client = _make_client(tmp_path)
    walker, elsewhere = (slice(40, 90), slice(85, 105)), (slice(60, 110), slice(5, 45))
    shown = [_details(client, video_id, track_id, where) for where in (walker, elsewhere)]
    with open_store(str(tmp_path / "store")) as store:
        hide_classes(store, ["person"], "test")
    hidden = [_details(client, video_id, track_id, where) for where in (walker, elsewhere)]
    assert hidden[0] < shown[0] / 2
    assert hidden[1] > shown[1] / 2


def test_what_there_is_no_cut_of(tmp_path):
    video_id, track_id = _make_archived(tmp_path, uri="sent.mp4")
    client = _make_client(tmp_path)
    for video, track, said in (
        ("none", track_id, "no video"),
        (video_id, "none", "no track"),
        (video_id, track_id, "not kept"),
    ):
        assert said in _problem(client.get(f"/v1/videos/{video}/clip", params={"track": track}), 404)
    assert "track" in _problem(client.get(f"/v1/videos/{video_id}/clip"), 422)
