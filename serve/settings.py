"""Settings of the endpoint: the `args` of `config.yaml`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from flows.config import StoreSettings


class ServeSettings(BaseModel):
    """What `config.yaml` may say under `args`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    store: str = StoreSettings().url
    """Where results go and reports come from: a folder or `postgresql://...`."""
    config: Path | None = None
    """YAML file of the flow's settings (see docs/settings.md); default: environment and defaults."""
    max_clip_mb: float = Field(200.0, gt=0)
    """Largest clip in megabytes; a larger one is refused while it arrives."""
    max_clip_seconds: float = Field(300.0, gt=0)
    """Longest clip in seconds of video; longer ones are for `sightflow run`."""
    uploads: Path = Path(tempfile.gettempdir())
    """Where clips lie while they are processed; a shared folder where replicas run on several machines."""
    allow_private_urls: bool = False
    """Whether clips may be fetched from private, loopback and link-local addresses."""
    torch_threads: int | None = Field(None, ge=1)
    """CPU threads of a worker; default: what torch takes."""

    @property
    def max_clip_bytes(self) -> int:
        """The same limit in bytes."""
        return int(self.max_clip_mb * 1e6)
