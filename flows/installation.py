"""What is installed on this machine, as far as the checks of `doctor` are about packages and drivers.

Every check works with the base install: a missing extra is a warning, and what needs it is not checked further.
"""

from __future__ import annotations

import importlib.metadata
import io
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

INSTALL = "pip install 'sightflow[{}]'"
_MIN_PYTHON = (3, 11)


@dataclass(frozen=True)
class Check:
    """One line of the report: `ok` is True, False, or None for a warning; the latter two have a `fix`."""

    name: str
    ok: bool | None
    detail: str
    fix: str = ""


def python() -> Iterator[Check]:
    """Is Python new enough?"""
    found = ".".join(map(str, sys.version_info[:3]))
    wanted = ".".join(map(str, _MIN_PYTHON))
    new_enough = sys.version_info >= _MIN_PYTHON
    yield Check(
        "Python", new_enough, f"{found}, at least {wanted} is needed", "" if new_enough else f"install {wanted}"
    )


# -- packages


def packages() -> Iterator[Check]:
    """Is every package there, and new enough? One line per extra."""
    for extra, requirements in _requirements().items():
        found, problems = [], []
        for name, least in requirements:
            try:
                version = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                problems.append(f"{name} is missing")
                continue
            found.append(f"{name} {version}")
            if _numbers(version) < _numbers(least):
                problems.append(f"{name} {version} is older than {least}")
        title = f"packages: {extra}" if extra else "packages"
        fix = INSTALL.format(extra) if extra else "pip install --upgrade sightflow"
        yield Check(
            title,
            (None if extra else False) if problems else True,
            ", ".join(problems or found),
            fix if problems else "",
        )


def _requirements() -> dict[str, list[tuple[str, str]]]:
    """(package, least version) by extra, "" for the base: from pyproject.toml in a checkout, else from the metadata."""
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    lines: dict[str, list[str]] = {}
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        lines = {"": project["dependencies"], **project["optional-dependencies"]}
    else:
        for line in importlib.metadata.requires("sightflow") or []:
            marker = re.search(r"""extra == ['"](\w+)['"]""", line)
            lines.setdefault(marker[1] if marker else "", []).append(line)
    parsed = {}
    for extra, entries in lines.items():
        matches = [re.match(r"([\w.-]+)(?:\[[\w,]+\])?\s*(?:>=\s*([\d.]+))?", entry) for entry in entries]
        parsed[extra] = [(m[1], m[2] or "0") for m in matches if m and m[1] != "sightflow"]
    parsed.pop("dev", None)
    return parsed


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version.split("+")[0])[:3])


def needs(name: str, *modules: str) -> Iterator[Check]:
    """A warning where modules of the video extra are missing."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        yield Check(name, None, f"not checked: {', '.join(missing)} not installed", INSTALL.format("video"))


def torch_fits() -> Iterator[Check]:
    """Were torch and torchvision built for each other?"""
    if missing := list(needs("torch", "torch", "torchvision")):
        yield from missing
        return
    try:
        import torch
        import torchvision

        # Builds that do not belong together fail when an operator of torchvision's own is looked up.
        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    except (RuntimeError, AttributeError, ImportError, OSError) as error:
        versions = " and ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torchvision"))
        reason = str(error).splitlines()[0]
        fix = "pip install --upgrade --force-reinstall torch torchvision"
        yield Check("torch", False, f"{versions} do not work together: {reason}", fix)
        return
    yield Check("torch", True, f"torch {torch.__version__}, torchvision {torchvision.__version__}")


def gpu() -> Iterator[Check]:
    """Which GPU is there, and can torch use it?"""
    driver = _nvidia_smi()
    if missing := list(needs("GPU", "torch")):
        yield from missing
        return
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            memory = f"{device.total_memory / 2**30:.0f} GiB"
            yield Check(
                "GPU", True, f"{device.name}, {memory}, driver {driver or 'unknown'}, CUDA {torch.version.cuda}"
            )
    elif driver:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        fix = "install the torch build for this driver (https://pytorch.org/get-started/locally), or a newer driver"
        yield Check("GPU", False, f"there is one (driver {driver}), but torch, {built}, cannot use it", fix)
    else:
        yield Check("GPU", True, "none: runs on the CPU")


def _nvidia_smi() -> str | None:
    """Version of the NVIDIA driver; None where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.split()[0] if done.returncode == 0 and done.stdout.strip() else None


def sam2_imports() -> Iterator[Check]:
    """Can SAM 2 be imported?"""
    if missing := list(needs("SAM 2", "torch", "sam2", "hydra", "safetensors")):
        yield from missing
        return
    try:
        import sam2.sam2_video_predictor
    except (ImportError, RuntimeError) as error:
        fix = "SAM2_BUILD_CUDA=0 pip install --no-build-isolation --force-reinstall --no-deps sam2"
        yield Check("SAM 2", False, f"cannot be imported: {error}", fix)
        return
    yield Check("SAM 2", True, f"sam2 {importlib.metadata.version('sam2')} in {Path(sam2.__path__[0])}")


def codecs() -> Iterator[Check]:
    """Can PyAV write and read H.264?"""
    if missing := list(needs("video codecs", "av")):
        yield from missing
        return
    import av
    import numpy as np

    file = io.BytesIO()
    fix = "pip install --force-reinstall av (its wheels bring FFmpeg with H.264)"
    try:
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("h264", rate=10)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        file.seek(0)
        with av.open(file) as container:
            if sum(1 for _ in container.decode(video=0)) != 1:
                raise ValueError("the frame that was written is not read back")
    except (av.FFmpegError, ValueError) as error:
        yield Check("video codecs", False, f"PyAV {av.__version__} cannot write and read H.264: {error}", fix)
        return
    version = av.ffmpeg_version_info
    yield Check("video codecs", True, f"PyAV {av.__version__}, FFmpeg {version}: H.264 is written and read")
