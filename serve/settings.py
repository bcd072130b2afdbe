"""Settings of the endpoint: the `args` of `config.yaml`, or variables like SIGHTFLOW_SERVE_MAX_CLIP_MB."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints
from pydantic_settings import BaseSettings, SettingsConfigDict

from flows.config import StoreSettings

KeyHash = Annotated[str, StringConstraints(pattern=r"^sha256\$[0-9a-f]+\$[0-9a-f]{64}$")]


class ServeSettings(BaseSettings):
    """What `config.yaml` may say under `args`."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, env_prefix="SIGHTFLOW_SERVE_"
    )

    store: str = StoreSettings().url
    """Where results go and reports come from: a folder or `postgresql://...`."""
    config: Path | None = None
    """YAML file of the flow's settings (see docs/settings.md); default: environment and defaults."""
    keys: tuple[KeyHash, ...] = ()
    """Hashes of the API keys that are let in, from `python -m serve.keys`; without any, only this machine is."""
    cors_origins: tuple[str, ...] = ()
    """Web pages, as `https://host`, whose scripts may ask; by default none."""
    max_clip_mb: float = Field(200.0, gt=0)
    """Largest clip in megabytes; a larger one is refused while it arrives."""
    max_clip_seconds: float = Field(300.0, gt=0)
    """Longest clip in seconds of video; longer ones are for jobs."""
    max_clip_frames: int = Field(36_000, ge=1)
    """Most frames of a clip: five minutes at 120 a second."""
    max_clip_side_px: int = Field(4096, ge=16)
    """Longest side of a clip's frames: 4K, the DCI one included."""
    uploads: Path = Path(tempfile.gettempdir())
    """Where clips lie while they are processed; a shared folder where replicas run on several machines."""
    archives: tuple[str, ...] = ()
    """Folders and addresses (`s3://bucket/`) whose videos jobs may process; by default none."""
    job_address: str | None = None
    """Address of the Ray dashboard (`http://head:8265`) that runs jobs; default: processes of this machine."""
    allow_private_urls: bool = False
    """Whether clips may be fetched from private, loopback and link-local addresses."""
    torch_threads: int | None = Field(None, ge=1)
    """CPU threads of a worker; default: what torch takes."""

    @property
    def max_clip_bytes(self) -> int:
        """The same limit in bytes."""
        return int(self.max_clip_mb * 1e6)
