"""Stores: one interface (`base.py`), a folder of Parquet files (`parquet.py`), a PostGIS database (`postgis.py`)."""

from __future__ import annotations

from flows.store.base import Filter, Store, Zone, ZoneVersion

__all__ = ["Filter", "Store", "Zone", "ZoneVersion", "open_store"]


def open_store(url: str) -> Store:
    """The store at an address: `postgresql://...` (or `postgres://`), anything else is a folder.

    Nothing is connected or created before `prepare()` (or `with`).
    """
    if url.startswith(("postgresql://", "postgres://")):
        from flows.store.postgis import PostgisStore

        return PostgisStore(url)
    from flows.store.parquet import ParquetStore

    return ParquetStore(url)
