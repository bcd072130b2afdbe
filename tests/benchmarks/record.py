"""Where figures go: to the terminal as JSON, and to `results/`, one file for a benchmark and a device."""

import json
import os
import platform
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def device_name() -> str:
    """The processor's name and how many cores this process may use."""
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return (
        f"{models[0] if models else platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    )


def record(benchmark: str, name: str, figures: dict[str, Any]) -> None:
    """Print a benchmark's figures and keep them in place of the ones this device gave before.

    The load says how far to trust absolute times: ratios are of the same run.
    """
    device = device_name()
    figures = {**figures, "load_average": round(os.getloadavg()[0], 1)}
    print(json.dumps({"benchmark": benchmark, "device": device, name: figures}))
    file = RESULTS / f"{benchmark}-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"
    kept = json.loads(file.read_text()) if file.exists() else {"device": device}
    RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps({**kept, name: figures}, indent=1) + "\n")
