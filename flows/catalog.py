"""The models that have a name: what they are, who publishes them, their sizes and SHA-256 sums.

`docs/models.md` says where the sums come from.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["detector", "segmenter"]

DEMO = Path(__file__).parent / "demo"
_ULTRALYTICS = "https://github.com/ultralytics/assets/releases/download/v8.3.0/"
_META = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/"


@dataclass(frozen=True)
class ModelSpec:
    """A model with a name. Without a URL it is bundled, and `file_name` is relative to `flows/demo`."""

    name: str
    kind: Kind
    file_name: str
    licence: str
    description: str
    url: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    config: str | None = None
    """Segmenters: YAML of the architecture, in the sam2 package or (bundled) relative to `flows/demo`."""
    image_size: int | None = None
    """Segmenters: input size in pixels. A detector's checkpoint says its own."""

    @property
    def path(self) -> Path:
        """Where the file stands, or would stand once fetched."""
        return (DEMO if self.url is None else cache_folder()) / self.file_name


def _yolo(size: str, size_bytes: int, sha256: str, description: str) -> ModelSpec:
    file_name = f"yolo11{size}.pt"
    return ModelSpec(
        f"yolo11{size}", "detector", file_name, "AGPL-3.0", f"YOLO11 {description}, 80 COCO classes",
        url=_ULTRALYTICS + file_name, size_bytes=size_bytes, sha256=sha256,
    )  # fmt: skip


def _sam(size: str, letter: str, size_bytes: int, sha256: str) -> ModelSpec:
    file_name = f"sam2.1_hiera_{size.replace('-', '_')}.pt"
    return ModelSpec(
        f"sam2.1-{size}", "segmenter", file_name, "Apache-2.0", f"SAM 2.1 {size}",
        url=_META + file_name, size_bytes=size_bytes, sha256=sha256,
        config=f"configs/sam2.1/sam2.1_hiera_{letter}.yaml", image_size=1024,
    )  # fmt: skip


def _nano_segmenter(name: str, image_size: int, description: str) -> ModelSpec:
    return ModelSpec(
        name, "segmenter", "weights/nano_segmenter.safetensors", "AGPL-3.0", description,
        config="nano_segmenter.yaml", image_size=image_size,
    )  # fmt: skip


MODELS = (
    ModelSpec("nano", "detector", "weights/nano_detector.pt", "AGPL-3.0", "small YOLO11 of the demo scenes"),
    _yolo("n", 5613764, "0ebbc80d4a7680d14987a577cd21342b65ecfd94632bd9a8da63ae6417644ee1", "nano"),
    _yolo("s", 19313732, "85a76fe86dd8afe384648546b56a7a78580c7cb7b404fc595f97969322d502d5", "small"),
    _yolo("m", 40684120, "d5ffc1a674953a08e11a8d21e022781b1b23a19b730afc309290bd9fb5305b95", "medium"),
    _yolo("l", 51387343, "9ebd0e09d59811db4b1d61e2bc6730649608b1ac47f8dd01e2da6bca7c20023f", "large"),
    _yolo("x", 114636239, "7bc158aa95c0ebfdd87f70f01653c1131b93e92522dbe15c228bcd742e773a24", "extra large"),
    _nano_segmenter("nano", 256, "small SAM 2 of the demo scenes"),
    _nano_segmenter("nano-512", 512, "the same weights at twice the resolution"),
    _sam("tiny", "t", 156008466, "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"),
    _sam("small", "s", 184416285, "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"),
    _sam("base-plus", "b+", 323606802, "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"),
    _sam("large", "l", 898083611, "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),
)
"""Every model that has a name."""


def cache_folder() -> Path:
    """Where fetched weights are kept: `SIGHTFLOW_CACHE` or `~/.cache/sightflow/models`."""
    return Path(os.environ.get("SIGHTFLOW_CACHE") or Path.home() / ".cache" / "sightflow" / "models").expanduser()
