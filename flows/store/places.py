"""Zones and calibrations of a store in a folder: a JSON file per source, with every version there was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.schema import EPOCH
from flows.store import duck
from flows.store.base import Zone, ZoneVersion
from flows.store.files import FileCache, file_lock, source_folder
from flows.store.ledger import read_json, write_json
from flows.store.tables import CALIBRATION_VERSIONS, CALIBRATIONS, ZONE_VERSIONS, ZONES, zone_rows, zones_of


class Places:
    """The folders `zones` and `calibrations` of a store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._json = FileCache(read_json)

    def zone_versions(self, source_id: str) -> list[ZoneVersion]:
        """See `Store.zone_versions`."""
        return [
            ZoneVersion(row["version"], row["written_at"], tuple(zones_of(row["zones"])))
            for row in self._versions("zones", source_id)
        ]

    def add_zones(self, source_id: str, zones: Sequence[Zone]) -> None:
        """See `Store.write_zones`."""
        with self._rewritten("zones", source_id) as versions:
            row = {"version": len(versions) + 1, "written_at": datetime.now(UTC), "zones": zone_rows(zones)}
            versions.append(row)

    def calibrations(self, source_id: str) -> list[tuple[datetime, str]]:
        """See `Store.calibrations`."""
        return [(row["valid_from"], row["calibration"]) for row in self._versions("calibrations", source_id)]

    def add_calibration(self, source_id: str, calibration_json: str, valid_from: datetime) -> None:
        """See `Store.write_calibration`."""
        with self._rewritten("calibrations", source_id) as versions:
            kept = [row for row in versions if row["valid_from"] != valid_from]
            row = {"valid_from": valid_from, "calibration": calibration_json}
            versions[:] = sorted([*kept, row], key=lambda row: row["valid_from"])

    def upgrade(self) -> None:
        """From version 2 of the store, in which a source had one set of zones and one calibration."""
        first: dict[str, dict[str, Any]] = {
            "zones": {"version": 1, "written_at": datetime.now(UTC)},
            "calibrations": {"valid_from": EPOCH},
        }
        for kind, version in first.items():
            for path in sorted((self._folder / kind).glob("[!.]*.json")):
                found = read_json(path)
                if "versions" not in found:
                    source_id = found.pop("source_id")
                    write_json(path, {"source_id": source_id, "versions": [{**version, **found}]})

    def tables(self) -> duck.Tables:
        """The tables made of these files."""
        return {
            "zones": lambda: pa.Table.from_pylist(
                [
                    {**zone, "source_id": source_id, "points": json.dumps(zone["points"])}
                    for source_id, versions in self._all("zones")
                    for zone in versions[-1]["zones"]
                ],
                ZONES,
            ),
            "zone_versions": lambda: pa.Table.from_pylist(
                [
                    {**version, "source_id": source_id, "zones": json.dumps(version["zones"])}
                    for source_id, versions in self._all("zones")
                    for version in versions
                ],
                ZONE_VERSIONS,
            ),
            "calibrations": lambda: pa.Table.from_pylist(
                [{**versions[-1], "source_id": source_id} for source_id, versions in self._all("calibrations")],
                CALIBRATIONS,
            ),
            "calibration_versions": lambda: pa.Table.from_pylist(
                [
                    {**version, "source_id": source_id}
                    for source_id, versions in self._all("calibrations")
                    for version in versions
                ],
                CALIBRATION_VERSIONS,
            ),
        }

    def _path(self, kind: str, source_id: str) -> Path:
        return self._folder / kind / f"{source_folder(source_id)}.json"

    def _versions(self, kind: str, source_id: str) -> list[dict[str, Any]]:
        found = self._json.get(self._path(kind, source_id))
        return list(found["versions"]) if found else []

    def _all(self, kind: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        for found in self._json.all(self._folder / kind, ".json").values():
            yield found["source_id"], found["versions"]

    @contextmanager
    def _rewritten(self, kind: str, source_id: str) -> Iterator[list[dict[str, Any]]]:
        """The versions of a source, written back when the caller has changed them; one writer at a time."""
        with file_lock(self._folder / "locks" / f"{source_folder(source_id)}.{kind}"):
            versions = self._versions(kind, source_id)
            yield versions
            write_json(self._path(kind, source_id), {"source_id": source_id, "versions": versions})
