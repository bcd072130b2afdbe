"""The shape of the project, held by tests."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flows

FLOWS = Path(flows.__file__).parent
# What the base install does not bring.
HEAVY = ("torch", "sam2", "ultralytics", "ray", "av", "cv2", "supervision", "filterpy", "streamlit", "pandas")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_only_the_wiring_imports_ray():
    """The doctor looks for Ray, as it does for every package, without importing it as part of a step."""
    with_ray = {str(path.relative_to(FLOWS)) for path in FLOWS.rglob("*.py") if "ray" in _imports(path)}
    assert with_ray == {"pipeline.py"}


def test_the_docstring_tells_every_module():
    modules = {p.stem for p in FLOWS.glob("*.py")} - {"__init__", "__main__"}
    packages = {p.parent.name for p in FLOWS.glob("*/__init__.py")}
    told = {line.split("`")[1] for line in (flows.__doc__ or "").splitlines() if line.lstrip().startswith("- `")}
    assert told == modules | packages


def test_the_base_install_can_read_and_report():
    """The command line, the stores and the reports import nothing that an extra brings."""
    code = (
        "import sys, flows.cli, flows.reports, flows.store.parquet, flows.store.postgis, flows.audit;"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("flows.workers", HEAVY),  # what commits
        ("flows.pipeline", ("torch", "sam2", "scipy.stats")),  # the driver
        ("flows.process", ("sam2", "filterpy")),  # what detects
    ],
)
def test_a_process_of_a_run_imports_only_what_it_works_with(module, never):
    """A run starts several, and each of these libraries takes it between a third of a second and two seconds."""
    code = f"import sys, {module}; print([m for m in {never!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
