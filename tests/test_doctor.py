"""The doctor's report, on this installation and on broken ones."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import tomllib
from pathlib import Path

import psycopg
import pytest
from packaging.requirements import Requirement

from flows import installation
from flows.catalog import MODELS
from flows.doctor import run_checks
from flows.installation import Check
from flows.store import open_store
from flows.store.base import SCHEMA_VERSION
from tests.base_install import ROOT, run_in_base


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIGHTFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _by_name(store_url: str, *wanted: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Check]:
    """The report without the slow checks that the caller does not ask for."""
    import flows.doctor

    for module, function in (
        (installation, "packages"), (installation, "torch_fits"), (installation, "gpu"), (installation, "sam2_imports"),
        (installation, "codecs"), (flows.doctor, "_bundled_models"), (flows.doctor, "_ray"),
    ):  # fmt: skip
        if function not in wanted:
            monkeypatch.setattr(module, function, lambda: iter(()))
    return {check.name: check for check in run_checks(store_url)}


def test_every_line_of_a_sound_installation_is_ok(tmp_path: Path) -> None:
    checks = run_checks(str(tmp_path / "data"))
    assert {check.name for check in checks} >= {
        "Python", "packages", "packages: video", "torch", "GPU", "SAM 2", "bundled detector", "bundled segmenter",
        "official models", "video codecs", "disk: model cache", "disk: store", "memory", "store", "Ray",
    }  # fmt: skip
    optional = re.compile("packages: |memory|disk|GPU")
    wrong = [check for check in checks if check.ok is not True and not optional.match(check.name)]
    assert wrong == []
    assert [check for check in checks if bool(check.fix) is (check.ok is True)] == []
    assert not (tmp_path / "data").exists()


def test_packages_are_those_of_pyproject(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = installation._requirements()
    assert set(listed) == {"", *project["optional-dependencies"]} - {"dev"}
    wanted = [Requirement(line) for line in project["dependencies"]]
    assert [name for name, _ in listed[""]] == [requirement.name for requirement in wanted]
    assert ("psycopg", "3.2") in listed[""]
    assert "ray" in dict(listed["serve"])
    # The same from the metadata of an installed wheel, which has no pyproject.toml beside it.
    lines = project["dependencies"] + [
        f'{line}; extra == "{extra}"' for extra, lines in project["optional-dependencies"].items() for line in lines
    ]
    monkeypatch.setattr(installation, "__file__", "/nowhere/flows/installation.py")
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert installation._requirements() == listed


def test_a_missing_and_an_old_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = {"": [("numpy", "999.1")], "video": [("no-such-package", "1"), ("numpy", "1.0")]}
    monkeypatch.setattr(installation, "_requirements", lambda: requirements)
    base, video = installation.packages()
    assert base.ok is False
    assert re.fullmatch(r"numpy [\d.]+ is older than 999\.1", base.detail)
    assert video == Check("packages: video", None, "no-such-package is missing", "pip install 'sightflow[video]'")


def test_the_base_install_gets_warnings_and_no_more(tmp_path: Path) -> None:
    said = run_in_base(
        tmp_path / "packages",
        "import json, dataclasses; from flows.doctor import run_checks\n"
        f"print(json.dumps([dataclasses.astuple(c) for c in run_checks({str(tmp_path / 'data')!r})]))",
    )
    checks = {check.name: check for check in (Check(*line) for line in json.loads(said))}
    assert {name for name, check in checks.items() if check.ok is False} == set()
    for name in ("torch", "GPU", "SAM 2", "bundled detector", "bundled segmenter", "video codecs", "Ray"):
        assert checks[name].ok is None
        assert "not installed" in checks[name].detail
        assert checks[name].fix == "pip install 'sightflow[video]'"
    assert checks["packages"].ok is True
    assert checks["packages: video"].ok is None


def test_a_damaged_cached_model_is_found(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = next(spec for spec in MODELS if spec.name == "yolo11n")
    cache.mkdir()
    spec.path.write_bytes(b"something else")
    check = _by_name(str(tmp_path / "data"), monkeypatch=monkeypatch)["model yolo11n"]
    assert check.ok is False
    assert "damaged or another file" in check.detail
    assert check.fix == f"rm {spec.path} && sightflow models pull yolo11n"


@pytest.mark.parametrize(
    ("make", "ok", "detail"),
    [
        (lambda folder: None, True, "made by the first run"),
        (lambda folder: folder.mkdir(), True, "made by the first run"),
        (
            lambda folder: (folder.mkdir(), (folder / "schema_version").write_text(f"{SCHEMA_VERSION}\n")),
            True,
            "of this version",
        ),
        (lambda folder: (folder.mkdir(), (folder / "schema_version").write_text("99")), False, "schema version '99'"),
        (lambda folder: (folder.mkdir(), (folder / "holiday.jpg").write_text("")), False, "holds no store"),
        (lambda folder: folder.write_text(""), False, "is a file"),
    ],
)
def test_a_store_folder_is_looked_at_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: object, ok: bool, detail: str
) -> None:
    folder = tmp_path / "data"
    make(folder)  # type: ignore[operator]
    before = sorted(tmp_path.rglob("*"))
    check = _by_name(str(folder), monkeypatch=monkeypatch)["store"]
    assert check.ok is ok
    assert detail in check.detail
    assert ok or check.fix
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unreachable_database_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    check = _by_name("postgresql://me:secret@127.0.0.1:9/tracks", monkeypatch=monkeypatch)["store"]
    assert check.ok is False
    assert "no server listens there" in check.detail
    assert "secret" not in check.detail


def test_a_database_is_described_before_and_after_its_first_run(
    postgis_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = _by_name(postgis_database, monkeypatch=monkeypatch)
    assert re.search(r"PostgreSQL \d+", checks["database"].detail)
    assert re.match(r"3\.\d", checks["PostGIS"].detail)
    assert "no tables yet" in checks["store"].detail
    with open_store(postgis_database):
        pass
    check = _by_name(postgis_database, monkeypatch=monkeypatch)["store"]
    assert f"tables of schema version {SCHEMA_VERSION}" in check.detail
    with psycopg.connect(postgis_database, autocommit=True) as connection:
        connection.execute("update sightflow.schema_version set version = 99")
    check = _by_name(postgis_database, monkeypatch=monkeypatch)["store"]
    assert check.ok is False
    assert "schema version '99'" in check.detail


def test_a_temporary_folder_too_long_for_ray_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("x" * 60)
    folder.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    check = _by_name(str(tmp_path / "data"), "_ray", monkeypatch=monkeypatch)["Ray"]
    assert check.ok is False
    assert "too long for Unix sockets" in check.detail
    assert "RAY_TMPDIR" in check.fix


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o500)
    check = _by_name(str(tmp_path / "data"), monkeypatch=monkeypatch)["disk: store"]
    tmp_path.chmod(0o700)
    assert check.ok is False
    assert "not writable" in check.detail


def test_a_check_that_breaks_is_a_line_and_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(installation, "python", broken)
    checks = _by_name(str(tmp_path / "data"), monkeypatch=monkeypatch)
    assert checks["Python"].ok is False
    assert checks["Python"].detail == "ZeroDivisionError: oops"
    assert "store" in checks
