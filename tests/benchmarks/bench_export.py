"""Memory and speed of every export, at a growing number of observations: `python -m tests.benchmarks.bench_export`.

One camera's archive of 1, 4 and 8 million observations with masks, in a folder store. Each export runs in a process of
its own, whose highest resident memory is asked of the kernel. The baseline reads the same observations as one table in
the same order, as one would who writes a file from a table. `yolo` needs the video and is left out.

Arguments: names of formats; without any, all.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.export import FORMATS, export
from flows.store import Filter, Store, open_store
from tests.archive import day_video, link_all, make_archive_chunk
from tests.benchmarks.record import record

SOURCE = "camera-00"
ROWS_PER_CHUNK = 83_334
N_CHUNKS = {"1M": 12, "4M": 48, "8M": 96}
TABLE = "whole table"


def fill(store: Store, n_chunks: int) -> None:
    """Chunks as dense as each other: a longer day, not a busier one."""
    store.add_video(day_video(SOURCE))
    for index in range(n_chunks):
        result = make_archive_chunk(SOURCE, index, n_chunks, ROWS_PER_CHUNK, masks=True)
        store.plan([result.chunk])
        store.commit(result)
    link_all(store, SOURCE)


def once(folder: str, name: str, out: str) -> dict[str, Any]:
    """Export once, or read the whole table."""
    start = time.perf_counter()
    with open_store(folder) as store:
        if name == TABLE:
            pa.Table.from_batches(store.observations(Filter()))
        else:
            export(store, name, Path(out), Filter())
    seconds = time.perf_counter() - start
    # Not getrusage: that counts what the process was before exec as well.
    (peak_kb,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return {"seconds": round(seconds, 2), "peak_mb": int(peak_kb) // 1024}


def measured(folder: str, name: str, out: str) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_export", "--once", folder, name, out]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, Any] = json.loads(said.splitlines()[-1])
    return figures


def main(names: list[str]) -> None:
    """Measure and record."""
    with tempfile.TemporaryDirectory() as folder:
        rows = {}
        for size, n_chunks in N_CHUNKS.items():
            with open_store(f"{folder}/{size}") as store:
                fill(store, n_chunks)
                rows[size] = store.query("select count(*) as n from observations")["n"][0].as_py()
        baseline = {size: measured(f"{folder}/{size}", TABLE, "") for size in rows}
        record("export", TABLE, {**{f"{size}_peak_mb": baseline[size]["peak_mb"] for size in rows}, "rows": rows})
        for name in names:
            found = {size: measured(f"{folder}/{size}", name, f"{folder}/out") for size in rows}
            figures: dict[str, Any] = {f"{size}_peak_mb": found[size]["peak_mb"] for size in rows}
            figures["rows_per_s"] = round(rows["8M"] / found["8M"]["seconds"])
            figures["8M_memory_of_whole_table"] = round(found["8M"]["peak_mb"] / baseline["8M"]["peak_mb"], 3)
            figures["8M_time_of_whole_table"] = round(found["8M"]["seconds"] / baseline["8M"]["seconds"], 1)
            record("export", name, figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--once"]:
        print(json.dumps(once(*sys.argv[2:])))
    else:
        main(sys.argv[1:] or [name for name in FORMATS if name != "yolo"])
