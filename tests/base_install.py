"""Python with nothing but what the base install brings."""

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def run_in_base(folder: Path, code: str) -> str:
    """What code prints in a fresh interpreter; `folder` is made to hold the packages."""
    folder.mkdir()
    _link_packages(folder)
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(folder)!r}]\n{code}"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _link_packages(folder: Path) -> None:
    """Link the packages of the base install, and what they need in turn, into a folder."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    todo = [Requirement(line) for line in project["dependencies"]]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement = todo.pop()
        for extra in {"", *requirement.extras}:
            if (requirement.name.lower(), extra) in seen:
                continue
            seen.add((requirement.name.lower(), extra))
            try:
                distribution = importlib.metadata.distribution(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                continue
            for top in {path.parts[0] for path in distribution.files or () if path.parts[0] != ".."}:
                if not (folder / top).exists():
                    (folder / top).symlink_to(str(distribution.locate_file(top)))
            needed = [Requirement(line) for line in distribution.requires or ()]
            todo += [r for r in needed if r.marker is None or r.marker.evaluate({"extra": extra})]
