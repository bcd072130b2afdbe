import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from serve.api import make_api
from serve.keys import fits, new_key
from serve.settings import ServeSettings

REPORTS = "/v1/reports/counts"


def _make_client(folder: Path, base_url: str = "http://127.0.0.1:8000", **settings: Any) -> TestClient:
    async def nothing(clip: object) -> Any:
        yield {"event": "done"}

    return TestClient(make_api(nothing, ServeSettings(store=str(folder / "store"), **settings)), base_url=base_url)


def test_a_key_is_known_by_its_hash_alone():
    key, hashed = new_key()
    other, _ = new_key()
    assert key not in hashed
    assert fits(key, [new_key()[1], hashed])
    assert not fits(other, [hashed])
    assert not fits("", [hashed])


def test_the_command_prints_a_key_and_its_hash():
    printed = subprocess.run([sys.executable, "-m", "serve.keys"], capture_output=True, text=True, check=True).stdout
    key, hashed = (line.split()[-1] for line in printed.splitlines())
    assert fits(key, [hashed])


def test_what_is_no_hash_is_refused_as_a_setting():
    with pytest.raises(ValidationError, match="keys"):
        ServeSettings(keys=("my-secret",))


def test_keys_are_asked_for_wherever_the_client_is(tmp_path):
    key, hashed = new_key()
    client = _make_client(tmp_path, keys=(hashed,))
    refused = client.get(REPORTS)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert refused.headers["content-type"] == "application/problem+json"
    for header in ("Bearer wrong", f"Basic {key}", "Bearer", f"Bearer {hashed}"):
        assert client.get(REPORTS, headers={"Authorization": header}).status_code == 401
    assert client.get("/no/such/path").status_code == 401
    assert client.get(REPORTS, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("base_url", "headers"),
    [
        ("http://192.168.1.7:8000", {}),
        ("http://127.0.0.1:8000", {"Host": "evil.example"}),
        ("http://127.0.0.1:8000", {"Origin": "https://evil.example"}),
        ("http://127.0.0.1:8000", {"Origin": "null"}),
    ],
)
def test_without_keys_only_this_machine_is_answered(tmp_path, base_url, headers):
    assert _make_client(tmp_path, base_url).get(REPORTS, headers=headers).status_code == 403


@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:8000", "https://ours.example"])
def test_without_keys_this_machine_needs_none(tmp_path, origin):
    client = _make_client(tmp_path, cors_origins=("https://ours.example",))
    assert client.get(REPORTS, headers={"Origin": origin} if origin else {}).status_code == 200


def test_other_pages_may_not_read_answers_unless_allowed(tmp_path):
    _, hashed = new_key()
    asked = {"Origin": "https://ours.example", "Access-Control-Request-Method": "GET"}
    closed = _make_client(tmp_path, keys=(hashed,)).options(REPORTS, headers=asked)
    assert "access-control-allow-origin" not in closed.headers
    opened = _make_client(tmp_path, keys=(hashed,), cors_origins=("https://ours.example",))
    assert opened.options(REPORTS, headers=asked).headers["access-control-allow-origin"] == "https://ours.example"
    asked["Origin"] = "https://evil.example"
    assert "access-control-allow-origin" not in opened.options(REPORTS, headers=asked).headers


def test_an_endpoint_open_to_others_does_not_start_without_keys():
    started = subprocess.run(
        [sys.executable, "-m", "serve", "--host", "0.0.0.0"], capture_output=True, text=True, check=False
    )
    assert started.returncode == 1
    assert "keys are needed" in started.stderr
