"""Which tracklet belongs to which track, in a store in a folder: a Parquet file per source and version."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

from flows.schema import TRACK_LINKS
from flows.store.files import FileCache, read_table, source_folder, write_table_durably


class Links:
    """The folder `links` of a store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "links"
        self._cache = FileCache(lambda path: read_table(path, TRACK_LINKS))

    def write(self, source_id: str, version: int, links: pa.Table) -> None:
        """See `Store.write_links`."""
        path = self._folder / source_folder(source_id) / f"version={version}.parquet"
        write_table_durably(path, links.cast(TRACK_LINKS))

    def versions(self, source_id: str) -> dict[int, pa.Table]:
        """Every version of a source's links."""
        found = self._cache.all(self._folder / source_folder(source_id), ".parquet")
        return {int(name.removeprefix("version=").removesuffix(".parquet")): links for name, links in found.items()}

    def newest(self, source_id: str) -> pa.Table:
        """The newest version, empty where there is none."""
        versions = self.versions(source_id)
        return versions[max(versions)] if versions else TRACK_LINKS.empty_table()

    def every(self) -> pa.Table:
        """Every version of every source."""
        tables = [links for source in self._sources() for links in self.versions(source).values()]
        return pa.concat_tables([TRACK_LINKS.empty_table(), *tables])

    def newest_of_all(self) -> pa.Table:
        """The newest version of every source."""
        return pa.concat_tables([TRACK_LINKS.empty_table(), *(self.newest(source) for source in self._sources())])

    def _sources(self) -> list[str]:
        return [unquote(path.name.removeprefix("source_id=")) for path in sorted(self._folder.glob("source_id=*"))]
