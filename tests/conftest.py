"""What all tests share. Environment is set here, before any library reads it."""

import os
from pathlib import Path

import pytest

ENVIRONMENT = {
    # Ray: no token on the local cluster, short socket paths, workers that keep this process's environment.
    "RAY_AUTH_MODE": "disabled",
    "RAY_TMPDIR": "/tmp/sf-ray",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Workers that get their share beside other work: Ray makes them give way to everything.
    "RAY_worker_niceness": "0",
    # ultralytics asks the network nothing.
    "YOLO_OFFLINE": "1",
    # One thread a process, and none that spins while it waits: tests share the cores with what they start.
    "OMP_NUM_THREADS": "1",
    "GOMP_SPINCOUNT": "0",
}
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)

pytest_plugins = ["tests.postgis"]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder `shared` beside the checkout, with real clips and ground truth; skips where there is none."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"no real clips and ground truth here ({folder.name}/ beside the checkout)")
    return folder


@pytest.fixture(params=["parquet", "postgis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a store nobody has prepared yet; a test that asks for it runs on both kinds."""
    if request.param == "parquet":
        return str(tmp_path / "store")
    url: str = request.getfixturevalue("postgis_database")
    return url
