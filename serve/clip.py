"""A clip that lies on disk, and what is told of it: what the HTTP side and the workers share, without the models."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

Event = dict[str, Any]


@dataclass(frozen=True)
class Clip:
    """A clip that lies on disk.

    Attributes:
        path: The file; it is removed once the clip is through.
        name: What the sender called it, stored as the video's address.
        source_id: Camera it comes from.
        store: Whether to keep the results.
        start_time: World time of the first frame; default: what the file says.
        classes: To track; default: those of the settings.
        detect_every: Frames from keyframe to keyframe; default: that of the settings.
    """

    path: Path
    name: str
    source_id: str
    store: bool = True
    start_time: datetime | None = None
    classes: tuple[str, ...] = ()
    detect_every: int | None = None

    @property
    def own_store(self) -> Path:
        """Where results lie that nobody keeps."""
        return self.path.with_name(self.path.name + ".store")

    def discard(self) -> None:
        """Remove all that was made for this clip; its sender's side and the worker's both do, lest one of them dies."""
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self.own_store, ignore_errors=True)
