"""Log lines that say what they are about."""

import io
import json
import logging
import subprocess
import sys
import threading

import pytest

from flows.errors import UsageError
from flows.journal import Journal, JsonLines, _add_ids, about
from tests.stores import make_chunk


@pytest.fixture
def lines():
    """A logger whose JSON lines are read back."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(_add_ids)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("flows.tested")
    logger.addHandler(handler)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.removeHandler(handler)


def test_a_line_carries_the_ids_of_what_is_at_work(lines):
    chunk = make_chunk()
    log = logging.getLogger("flows.tested")
    with about(chunk, "run"):
        log.warning("grün, \n and %d more", 3, extra={"fields": {"rows": 90}})
        other = threading.Thread(target=log.warning, args=("of no chunk",))
        other.start()
        other.join()
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("after")
    inside, elsewhere, after = lines()
    assert inside["message"] == "grün, \n and 3 more"
    assert (inside["chunk_id"], inside["video_id"]) == (chunk.chunk_id, chunk.video.video_id)
    assert (inside["run_id"], inside["source_id"], inside["rows"], inside["level"]) == ("run", "gate", 90, "warning")
    assert inside["time"].endswith("+00:00")
    assert "chunk_id" not in elsewhere
    assert "chunk_id" not in after
    assert "ValueError: broken" in after["exception"]


@pytest.mark.parametrize(("name", "value"), [("SIGHTFLOW_LOG", "loud"), ("SIGHTFLOW_LOG_FORMAT", "xml")])
def test_what_cannot_be_meant_is_refused(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{name} is one of .*{value}"):
        Journal.from_environment()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_process_writes_its_log_as_told(form):
    code = (
        "import logging; from flows.journal import Journal, about; from tests.stores import make_chunk;"
        f"Journal('INFO', {form!r}).open(); Journal('INFO', {form!r}).open();"
        "held = about(make_chunk(), 'r'); held.__enter__(); logging.getLogger('x').info('said')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    chunk_id = make_chunk().chunk_id
    if form == "text":
        assert line == f"INFO x: said [chunk {chunk_id}]"
    else:
        assert json.loads(line)["chunk_id"] == chunk_id
