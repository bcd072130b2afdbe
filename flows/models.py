"""Names become weights: bundled with the package, a local file, in the cache, or fetched from their publisher.

What is read from the cache is checked against the catalog's SHA-256, also where a person put the file there by hand.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.catalog import DEMO, MODELS, Kind, ModelSpec
from flows.download import fetch, file_sha256
from flows.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    import torch

PREDICTOR = "sam2.sam2_video_predictor.SAM2VideoPredictor"
# Weights of a `MaskRefiner` lie in the file of the segmenter they correct, under this prefix.
REFINER = "refiner."
# What ultralytics loads: https://docs.ultralytics.com/modes/export
_DETECTOR_SUFFIXES = (".pt", ".torchscript", ".onnx", ".engine", ".tflite", ".pb", ".mnn")
_SEGMENTER_SUFFIXES = (".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class ResolvedModel:
    """Weights that are there.

    `config` is the YAML of a segmenter's architecture, a path or a name inside the sam2 package (None: to be told from
    the checkpoint); `image_size` the size to run at where the settings give none (None: what the config or the export
    says); `sha256` the digest the file was checked against.
    """

    name: str
    kind: Kind
    path: Path
    config: str | None = None
    image_size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class ModelListing:
    """One line of `sightflow models list`; `where` is bundled, missing, cached or to download."""

    name: str
    kind: Kind
    size_bytes: int | None
    licence: str
    where: str
    description: str


def list_models() -> list[ModelListing]:
    """Every named model and where it is; nothing is fetched."""
    return [_listing(spec) for spec in MODELS]


def _listing(spec: ModelSpec) -> ModelListing:
    present = spec.path.is_file()
    bundled = spec.url is None
    size_bytes = spec.path.stat().st_size if bundled and present else spec.size_bytes
    where = ("bundled" if present else "missing") if bundled else ("cached" if present else "to download")
    return ModelListing(spec.name, spec.kind, size_bytes, spec.licence, where, spec.description)


def pull(name: str) -> list[ResolvedModel]:
    """Fetch a named model (both kinds, where detector and segmenter share the name) into the cache.

    Raises:
        ModelError: No such name, or it cannot be fetched.
    """
    kinds: tuple[Kind, ...] = ("detector", "segmenter")
    specs = [spec for kind in kinds if (spec := _named(name, kind))]
    if not specs:
        raise _unknown(name, [spec.name for spec in MODELS])
    return [_present(spec) for spec in specs]


def resolve(name_or_path: str, kind: Kind) -> ResolvedModel:
    """Find weights by name or path, fetching official ones that are not yet in the cache.

    Names win over files that happen to be called the same; write `./nano` for the file.

    Raises:
        ModelError: Saying what was looked for and which file to put where.
    """
    spec = next((spec for spec in MODELS if spec.kind == kind and spec.name == name_or_path), None)
    if spec is None:
        path = Path(name_or_path).expanduser()
        if path.exists():
            return _local(name_or_path, path, kind)
        spec = _named(name_or_path, kind)
    if spec is not None:
        return _present(spec)
    if "/" in name_or_path or path.suffix in _DETECTOR_SUFFIXES + _SEGMENTER_SUFFIXES:
        raise ModelError(f"{name_or_path}: no such {kind} file (looked in {path.parent.resolve()})")
    raise _unknown(name_or_path, [spec.name for spec in MODELS if spec.kind == kind], kind)


def model_hash(model: ResolvedModel) -> str:
    """Digest of all that decides what the model computes: weights, architecture, size. Same on every machine."""
    if model.sha256:
        return model.sha256
    digest = hashlib.sha256(str(model.image_size).encode())
    files = sorted(model.path.rglob("*")) if model.path.is_dir() else [model.path]
    for file in [*files, *([Path(model.config)] if model.config else [])]:
        if file.is_file():
            digest.update(f"{file.name}\x1f{file_sha256(file)}\x1e".encode())
    return digest.hexdigest()


def _normalised(name: str) -> str:
    """`sam2.1_hiera_base_plus.pt`, `SAM2.1-base+` -> `sam2.1-base-plus`; `yolo11n.pt` -> `yolo11n`."""
    name = name.lower().removesuffix(".pt").replace("_", "-").replace("+", "-plus")
    return name.replace("-hiera-", "-")


def _named(name: str, kind: Kind) -> ModelSpec | None:
    return next((spec for spec in MODELS if spec.kind == kind and spec.name == _normalised(name)), None)


def _unknown(name: str, known: list[str], kind: str = "model") -> ModelError:
    known = list(dict.fromkeys(known))
    close = [k for k in known if name.lower() in k] or difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return ModelError(f"unknown {kind} {name!r}: {hint}Known: {', '.join(known)}; or give the path of a file")


def _present(spec: ModelSpec) -> ResolvedModel:
    """The named model, fetched if need be and checked."""
    path = spec.path
    if spec.url is None:
        if not path.is_file():
            raise ModelError(f"{path}: the bundled {spec.kind} {spec.name!r} is missing; install sightflow again")
        config = str(DEMO / spec.config) if spec.config else None
        return ResolvedModel(spec.name, spec.kind, path, config, spec.image_size)
    if not path.is_file():
        _fetch(spec, spec.url)
    if file_sha256(path) != spec.sha256:
        raise ModelError(
            f"{path}: damaged or another file: expected {spec.size_bytes} bytes with SHA-256 {spec.sha256}, got "
            f"{path.stat().st_size} bytes with {file_sha256(path)}. Delete it and run again to fetch it anew"
        )
    return ResolvedModel(spec.name, spec.kind, path, spec.config, spec.image_size, spec.sha256)


def _fetch(spec: ModelSpec, url: str) -> None:
    mirror = os.environ.get("SIGHTFLOW_MODEL_MIRROR")
    source = f"{mirror.rstrip('/')}/{spec.file_name}" if mirror else url
    if spec.size_bytes is None or spec.sha256 is None:
        raise AssertionError(f"{spec.name} is registered without size and SHA-256")
    try:
        fetch(source, spec.path, spec.size_bytes, spec.sha256)
    except ModelError as error:
        raise ModelError(
            f"{spec.kind} {spec.name!r} is not in the cache and could not be fetched: {error}.\n"
            f"Where there is a connection, download\n  {url}\n({spec.size_bytes / 1e6:.1f} MB, SHA-256 {spec.sha256}) "
            f"and put it here as\n  {spec.path}\nor set SIGHTFLOW_MODEL_MIRROR to an address that serves "
            f"{spec.file_name}"
        ) from error


def _local(name: str, path: Path, kind: Kind) -> ResolvedModel:
    """A file or export folder a person named; looked at just closely enough to say early that it is no model."""
    suffixes = _DETECTOR_SUFFIXES if kind == "detector" else _SEGMENTER_SUFFIXES
    if path.is_dir() and kind == "detector":
        _check_export(path)
    elif path.is_dir() or path.suffix not in suffixes:
        raise ModelError(f"{path}: not a {kind} file: expected {', '.join(suffixes)}")
    else:
        _check_content(path)
    config = path.with_suffix(".yaml")
    has_config = kind == "segmenter" and config.is_file()
    return ResolvedModel(name, kind, path.resolve(), str(config.resolve()) if has_config else None)


def _check_export(folder: Path) -> None:
    # ultralytics tells the format of an export from the name of its folder and its classes from metadata.yaml.
    if any(folder.glob("*.xml")) and not folder.name.endswith("_openvino_model"):
        raise ModelError(
            f"{folder}: an OpenVINO export must be in a folder whose name ends in _openvino_model; rename it"
        )
    if not (folder / "metadata.yaml").is_file():
        raise ModelError(f"{folder}: not an ultralytics export: it holds no metadata.yaml")


def _check_content(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path}: a Git LFS pointer, not the weights; run `git lfs pull` where it came from")
    if path.suffix == ".safetensors":
        fits = head[8:9] == b"{"
    elif path.suffix in (".pt", ".pth"):
        fits = zipfile.is_zipfile(path) or head.startswith(b"\x80")  # PyTorch's format before 1.6 is a bare pickle
    else:
        fits = bool(head)
    if not fits:
        came = f"it starts with {head[:16]!r}" if head else "it is empty"
        raise ModelError(f"{path}: not a {path.suffix} model: {came}")


def build_segmenter(
    model: ResolvedModel, image_size: int | None = None, device: str = "cpu", target: str = PREDICTOR
) -> torch.nn.Module:
    """Build SAM 2's video predictor, or a subclass of it, with its weights, ready for inference.

    Args:
        model: What `resolve(..., "segmenter")` returned.
        image_size: Input size in pixels (square), a multiple of 32; None for the model's own.
        device: Where torch shall put it.
        target: Dotted path of the class to build, `SAM2VideoPredictor` or a subclass.

    Raises:
        ModelError: The checkpoint does not fit the architecture, or the size does not.
        MissingExtraError: torch or sam2 is not installed.
    """
    try:
        from hydra.utils import instantiate
        from omegaconf import OmegaConf
    except ImportError as error:
        raise MissingExtraError(f"the segmenter needs {error.name}: pip install 'sightflow[video]'") from error

    state = _state_dict(model.path)
    name = model.config or _config_of(state, model.path)
    # Read as a file, not composed by hydra, whose global state belongs to the sam2 package and the application.
    described = OmegaConf.load(_config_file(name))
    config = described["model"]
    size = image_size or model.image_size or int(config["image_size"])
    if size % 32:
        raise ModelError(
            f"segmenter image_size must be a multiple of 32, got {size}; try {round(size / 32) * 32 or 32}"
        )
    config["_target_"] = target
    if name.startswith("configs/"):
        config.merge_with(_OFFICIAL_POSTPROCESSING)
    # Hole filling needs sam2's compiled extension; without it results do not depend on how sam2 was installed.
    config["fill_hole_area"] = 0
    config["image_size"] = size
    _adapt_to_size(config, size)
    predictor: Any = instantiate(config, _recursive_=True)
    predictor.box_hints = bool(described.get("box_hints", False))
    refiner = {key.removeprefix(REFINER): state.pop(key) for key in list(state) if key.startswith(REFINER)}
    _load_strictly(predictor, state, model.path)
    if refiner:
        _bring_refiner(predictor, refiner, model.path)
    built: torch.nn.Module = predictor.to(device).eval()
    return built


def _bring_refiner(predictor: Any, state: dict[str, Any], path: Path) -> None:
    from flows.refine import MaskRefiner

    if not predictor.box_hints:
        raise ModelError(f"{path}: it brings a refiner, which looks where boxes are: its YAML must say box_hints: true")
    predictor.refiner = MaskRefiner()
    _load_strictly(predictor.refiner, state, path, REFINER)


# What sam2.build_sam.build_sam2_video_predictor adds to the YAML by default, but for the hole filling.
_OFFICIAL_POSTPROCESSING = {
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
    "binarize_mask_from_pts_for_mem_enc": True,
}

# Blocks of the image encoder's trunk -> the letter in the name of the sam2 package's config.
_TRUNK_BLOCKS = {12: "t", 16: "s", 24: "b+", 48: "l"}


def _config_of(state: dict[str, Any], path: Path) -> str:
    """The sam2 config a checkpoint without one belongs to, told by its trunk and by what SAM 2.1 added."""
    blocks = {key.split(".")[3] for key in state if key.startswith("image_encoder.trunk.blocks.")}
    letter = _TRUNK_BLOCKS.get(len(blocks))
    if letter is None:
        raise ModelError(
            f"{path}: not a checkpoint of SAM 2 in one of its published sizes; for another architecture put its "
            f"configuration beside it as {path.with_suffix('.yaml').name}"
        )
    version = "sam2.1" if "no_obj_embed_spatial" in state else "sam2"
    return f"configs/{version}/{version}_hiera_{letter}.yaml"


def _config_file(name: str) -> Path:
    if not name.startswith("configs/"):
        return Path(name)
    try:
        import sam2
    except ImportError as error:
        raise MissingExtraError(f"the segmenter needs {error.name}: pip install 'sightflow[video]'") from error
    return Path(sam2.__path__[0]) / name


def _adapt_to_size(node: Any, size: int) -> None:
    """Set what depends on the input size: rotary encodings (stride 16) and the warm-up of position encodings."""
    from omegaconf import DictConfig

    if not isinstance(node, DictConfig):
        return
    if "feat_sizes" in node:
        node["feat_sizes"] = [size // 16, size // 16]
    if str(node.get("_target_")).endswith("PositionEmbeddingSine"):
        node["image_size"] = size
    for key in node:
        _adapt_to_size(node[key], size)


def _state_dict(path: Path) -> dict[str, Any]:
    import pickle

    import safetensors
    import safetensors.torch
    import torch

    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path}: not readable as weights: {str(error).splitlines()[0]}") from error
    state = loaded.get("model", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{path}: expected a state dict of tensors (or one under 'model'), got something else")
    return state


def _load_strictly(predictor: torch.nn.Module, state: dict[str, Any], path: Path, prefix: str = "") -> None:
    try:
        missing, unexpected = predictor.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes differ, one line each after the first
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise ModelError(f"{path}: does not fit its architecture: {_some(lines)}") from error
    found = {"missing": missing, "unexpected": unexpected}
    problems = [f"{what}: {_some([prefix + key for key in keys])}" for what, keys in found.items() if keys]
    if problems:
        raise ModelError(f"{path}: does not fit its architecture; {'; '.join(problems)}")


def _some(items: list[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
